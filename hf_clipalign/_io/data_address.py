"""Content inside a page instead of beside it."""

from __future__ import annotations

import base64


def data_address(data: bytes, media_type: str) -> str:
    """Content as an address that holds it.

    Args:
        data (`bytes`): the content.
        media_type (`str`): such as `image/jpeg`.
    """
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
