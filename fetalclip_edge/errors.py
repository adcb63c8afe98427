"""Every error the SDK raises on purpose: one small tree, each class also a Python builtin.

`except FetalCLIPEdgeError` catches all of them; `except ValueError`, `except OSError` and so on
catch them by their nature, so code that knows nothing of this package still handles them.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BundleError",
    "BundleIntegrityError",
    "BundleNotFoundError",
    "FetalCLIPEdgeError",
    "FrameError",
    "InvalidImageError",
    "InvalidImageTypeError",
    "ProfileError",
    "ProfileNotFoundError",
    "SinkError",
    "SourceError",
    "SourceNotFoundError",
    "SourceTimeoutError",
]


class FetalCLIPEdgeError(Exception):
    """Root of all errors raised by fetalclip-edge."""


class InvalidImageError(FetalCLIPEdgeError, ValueError):
    """An image, or an argument of its preprocessing, has a shape or value that cannot be used."""


class InvalidImageTypeError(FetalCLIPEdgeError, TypeError):
    """An image is not a uint8 numpy array, or an argument has the wrong type."""


class BundleError(FetalCLIPEdgeError, ValueError):
    """A bundle's manifest or one of its files does not say what it must."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """A bundle, or a file its manifest names, is not there."""


class BundleIntegrityError(BundleError):
    """A file of a bundle differs from the checksum in its manifest."""


class BackendError(FetalCLIPEdgeError, RuntimeError):
    """A backend could not load or run a graph."""


class BackendUnavailableError(BackendError, ImportError):
    """A backend's runtime is not installed on this machine."""


class ProfileError(FetalCLIPEdgeError, ValueError):
    """A region profile does not say what it must."""


class ProfileNotFoundError(ProfileError, FileNotFoundError):
    """The file of a region profile is not there."""


class SinkError(FetalCLIPEdgeError, OSError):
    """A sink of results cannot be opened, or written to."""


class SourceError(FetalCLIPEdgeError, OSError):
    """A source of frames could not be opened, or broke while being read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The file, folder or device that a source names does not exist."""


class SourceTimeoutError(SourceError, TimeoutError):
    """A source did not open or deliver a frame in time."""


class FrameError(SourceError):
    """One frame could not be read; the source goes on with the next."""
