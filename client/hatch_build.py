"""Compile the catalogues when the package is built or installed (also in place)."""

from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Catalogues(BuildHookInterface):
    """`penstock/locale/<language>.po` becomes `penstock/locale/<language>/LC_MESSAGES/penstock.mo`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        for source in sorted((Path(self.root) / "penstock" / "locale").glob("*.po")):
            folder = source.with_suffix("") / "LC_MESSAGES"
            folder.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as file, (folder / "penstock.mo").open("wb") as made:
                write_mo(made, read_po(file))
            build_data["artifacts"].append((folder / "penstock.mo").relative_to(self.root).as_posix())
