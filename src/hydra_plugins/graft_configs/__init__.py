"""Folders of configs beside graft's own, in which Hydra looks for groups, options and main configs too."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from graft.config.own_configs import own_folders


class OwnConfigs(SearchPathPlugin):
    """Hydra calls it whenever it begins to compose."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in own_folders():
            search_path.append("graft", folder.as_uri())
