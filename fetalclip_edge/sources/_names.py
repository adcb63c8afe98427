"""Names of sources for logs and results, without the secrets that addresses hold."""

from __future__ import annotations

import re

__all__ = ["hide_credentials", "pipeline_name"]

_HIDDEN = "***"
# Some IP cameras take the password in the path: rtsp://camera/user=admin_password=secret.sdp
_SECRET_IN_PATH = re.compile(r"(?i)(pass(?:word|wd)?|pwd|token|secret|key)=[^/?#]*")
# In GStreamer's words: quoted, or with a character that a backslash makes one of the value.
_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\\.", re.DOTALL)
_ELEMENT = re.compile(r"[A-Za-z][\w.-]*(/[\w.-]+)?\Z")


def hide_credentials(url: str) -> str:
    """The URL with user, password and the values of its query replaced by `***`.

    A password may hold any character, unescaped ones too, so where the end of the password cannot
    be told, more than the password is hidden.

    >>> hide_credentials("rtsp://admin:secret@10.0.0.7:554/live?token=abc&channel=1")
    'rtsp://***@10.0.0.7:554/live?token=***&channel=***'
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    user, at, rest = rest.rpartition("@")
    if "?" in user or "#" in user:
        return f"{scheme}://{_HIDDEN}"
    address, question, query = rest.partition("#")[0].partition("?")
    address = _SECRET_IN_PATH.sub(rf"\1={_HIDDEN}", address)
    parts = [part.partition("=") for part in query.split("&")] if query else []
    query = "&".join(f"{name}={_HIDDEN}" if equals else _HIDDEN for name, equals, _ in parts)
    return f"{scheme}://{_HIDDEN + at if at else ''}{address}{question}{query}"


def pipeline_name(pipeline: str) -> str:
    """The elements of a GStreamer pipeline without their properties.

    >>> pipeline_name('rtspsrc location=rtsp://h/s user-pw="x" ! decodebin ! appsink')
    'rtspsrc ! decodebin ! appsink'
    """
    # What a quote begins that nothing ends may be anything.
    bare = re.split("[\"']", _QUOTED.sub("", pipeline))[0]
    # Without spaces around it, a ! belongs to a value: a password may hold one.
    parts = re.split(r"\s!\s", bare)
    words = [part.split()[0].split(",")[0] for part in parts if part.split()]
    return " ! ".join(word if _ELEMENT.match(word) else _HIDDEN for word in words)
