"""Compile the catalogues of a package when it is built or installed (also in place)."""

from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Catalogues(BuildHookInterface):
    """In each of `folders`, `locale/<language>.po` becomes `locale/<language>/LC_MESSAGES/<domain>.mo`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        for folder, domain in self.config["folders"].items():
            for source in sorted((Path(self.root) / folder).glob("*.po")):
                made = source.with_suffix("") / "LC_MESSAGES" / f"{domain}.mo"
                made.parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as file, made.open("wb") as compiled:
                    write_mo(compiled, read_po(file))
                if not folder.startswith(".."):  # what is taken from outside is taken with everything in it
                    build_data["artifacts"].append(made.relative_to(self.root).as_posix())
