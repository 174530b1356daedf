"""Memory that a step frees stays with the process, so that the next step need not ask the kernel for it again."""

import ctypes
import platform

# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Have glibc serve large tensors from memory that it keeps, for the rest of the process.

    Without it every tensor of more than 32 MB is mapped anew, zeroed page by page, and unmapped when freed: on
    a CPU the kernel then takes more time than the convolutions of a step. Does nothing under another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
