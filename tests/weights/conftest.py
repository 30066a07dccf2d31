"""The small exported networks that several rooms' tests open."""

from tests.exported import build_small, export_network, graft, pictures, timm_model, torchvision_model

__all__ = ["build_small", "export_network", "graft", "pictures", "timm_model", "torchvision_model"]
