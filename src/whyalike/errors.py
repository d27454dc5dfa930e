"""Every error that whyalike raises on purpose.

Each message says what was expected, what came, and what to do. Catching `WhyalikeError` catches
them all; the command line turns each into one line and exit code 2.
"""


class WhyalikeError(Exception):
    """The root of the tree."""


class ImageError(WhyalikeError):
    """A file or object that cannot be read as an image, with its name and the reason."""


class RegionError(WhyalikeError, ValueError):
    """A point, box or mask that does not lie on the image, or not in the form expected."""


class ModelError(WhyalikeError):
    """A network that cannot be explained as it is."""


class TrainingModeError(ModelError):
    """The network, or a part of it, is in training mode, where its output is not a function."""


class OutputError(ModelError):
    """The network does not return finite embeddings of shape (N, d), image by image."""


class LayerError(ModelError):
    """The named layer does not exist, or its output is not one feature map (N, C, h, w)."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be read safely or does not fit the network."""


class CompletenessError(WhyalikeError):
    """The contributions do not add up to the embedding that the network returned."""


class DataError(WhyalikeError):
    """A data set that is not there, lacks a part, or has a list that cannot be read: which line."""


class GalleryError(WhyalikeError):
    """A gallery that is not there, is of another model, or cannot be read or written."""


class TrainingError(WhyalikeError):
    """Data or settings with which no network can be trained, or a training that went astray."""


class ViewError(WhyalikeError):
    """Nothing that can be shown here, or a package that showing it needs is missing."""


class StudyError(WhyalikeError):
    """A questionnaire that cannot be made of what came, or answers that do not belong to it."""


class OutputFileError(WhyalikeError):
    """A result that cannot be written where, or as what, it was asked for."""


def in_one_line(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])
