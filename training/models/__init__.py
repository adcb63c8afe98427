"""Teachers and students: image-text models that all take grey levels and give unit embeddings."""

from training.models.published import (
    PUBLISHED,
    PublishedModel,
    load_fetalclip,
    load_mobile_fetalclip,
)
from training.models.towers import DualEncoder, ImageTower, ModelConfig, TextTower

__all__ = [
    "PUBLISHED",
    "DualEncoder",
    "ImageTower",
    "ModelConfig",
    "PublishedModel",
    "TextTower",
    "load_fetalclip",
    "load_mobile_fetalclip",
]
