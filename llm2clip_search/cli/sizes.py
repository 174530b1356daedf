"""How numbers of parameters and bytes are written."""


def parameters(count: int) -> str:
    """``7.78B``, ``303M``, ``410k``."""
    if count >= 1e9:
        return f"{count / 1e9:.2f}B"
    return f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"


def gigabytes(count: int) -> str:
    """Bytes as ``1.50 GB`` or ``38 MB``."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
