"""Images that a query names: files, parts of files such as a page or a frame, and addresses."""

import io

from llm2clip_search.base.files import user_path
from llm2clip_search.corpora.addresses import withhold
from llm2clip_search.corpora.containers import container_uri, open_uri
from llm2clip_search.encoders.inputs import ImageInput
from llm2clip_search.errors import ImageError, Llm2ClipError


def named_image(name: str) -> ImageInput:
    """What a query names, for an encoder: a file of this machine as its path, anything else as an open file.

    Args:
        name: a path, an address, or either with a part of it: ``scan.pdf#page=3``, ``clip.mp4#t=12.5``,
            ``https://host/photo.jpg``.

    Raises:
        ImageError: it cannot be read, stage ``read``.
    """
    if "://" not in name and ("#" not in name or user_path(name).exists()):
        return name
    uri = withhold(name) if "://" in name else str(user_path(name))
    container, part = container_uri(uri)
    if "://" not in uri and not part:
        return name
    try:
        file = _NamedFile(open_uri(uri))
    except (OSError, Llm2ClipError) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{container} ").rstrip(".")
        raise ImageError(f"{uri}: {reason}", stage="read", hint=getattr(error, "hint", "")) from error
    except (LookupError, ValueError) as error:  # `page` without a number, or of a video
        raise ImageError(f"{uri}: its file has no such part", stage="read") from error
    file.name = uri
    return file


class _NamedFile(io.BytesIO):
    """Content with the name that messages show."""

    name = ""
