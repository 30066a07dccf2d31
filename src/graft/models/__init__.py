"""Networks: a library's own model, its ordered stages, the new head, the preprocessing, and splitting a network in
two."""

from graft.models.network import Network, build_network, plain_model, rebuild
from graft.models.preprocess import Preprocess
from graft.models.stages import Stage, Stages

__all__ = ["Network", "Preprocess", "Stage", "Stages", "build_network", "plain_model", "rebuild"]
