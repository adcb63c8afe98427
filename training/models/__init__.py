"""Teachers and students: image-text models that all take grey levels and give unit embeddings."""

from training.models.checkpoints import WeightsError
from training.models.published import (
    PUBLISHED,
    PublishedModel,
    load_fetalclip,
    load_mobile_fetalclip,
)
from training.models.towers import DualEncoder, ImageTower, ModelConfig, TextTower

ImageTextModel = DualEncoder | PublishedModel
"""What can be trained and taught by: `image`, `text`, `scale`, `preprocess`, `embed_dim`."""

__all__ = [
    "PUBLISHED",
    "DualEncoder",
    "ImageTextModel",
    "ImageTower",
    "ModelConfig",
    "PublishedModel",
    "TextTower",
    "WeightsError",
    "load_fetalclip",
    "load_mobile_fetalclip",
]
