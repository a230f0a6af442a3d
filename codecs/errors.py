"""What a codec refuses, said in one line. Importing this imports no torch, so that codecs which need none can refuse as well."""

from __future__ import annotations


class CodecError(Exception):
    """A file, a spec or an input that a codec has to refuse; the message is one line for people."""


def first_line(error: BaseException) -> str:
    """What an error says, shortened to one line; its kind if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
