"""Keep memory that a training step frees, so that the next step does not have to request it from the kernel again."""

from llm2clip_search.base.memory import of_glibc

# From glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Make glibc keep freed memory and reuse it for large tensors, for the rest of the process.

    By default, glibc maps every tensor over 32 MB afresh, the kernel zeroes its pages, and freeing it unmaps them:
    on a CPU this takes longer than the convolutions of a step. Does nothing with other C libraries.
    """
    if (set_option := of_glibc("mallopt")) is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, -1)  # never
