"""Results in a storage that all nodes of a cluster reach, at any address that fsspec knows: where they share no path.

A folder of a stage lies there under its recipe's name, so nothing is written over, and who needs it takes what fits. A
manifest goes last: where it is, the rest is. Executed notebooks lie beside, as they were made last.
"""

from pathlib import Path
from typing import Any

import fsspec

from response_priming import artifacts, notebooks, params
from response_priming.errors import InputError


class Storage:
    """The results of every profile at an address, as `s3://bucket/runs` or `file:///mnt/runs`."""

    def __init__(self, url: str) -> None:
        """Open it; `InputError` where nothing can be written there."""
        self.url = url
        try:
            self.system, self.root = fsspec.core.url_to_fs(url)
            self.system.makedirs(self.root, exist_ok=True)
            self.system.pipe_file(f"{self.root}/.writable", b"")
            self.system.rm_file(f"{self.root}/.writable")
        except Exception as error:  # every storage has classes of its own
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"STORAGE = {url!r}: cannot be written: {said[0]}") from None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        """To another process goes the address."""
        return Storage, (self.url,)

    def send(self, node: notebooks.Node) -> None:
        """Copy there what a notebook made: folders that are current and not there, and the notebook itself."""
        for folder in node.run.folders:
            wanted = artifacts.recipe(node.run, folder, here=False)
            there = self._place(node.run, folder, wanted)
            if artifacts.is_current(folder.path, wanted) and not self.system.exists(f"{there}/{artifacts.FILE}"):
                files = [file.relative_to(folder.path).as_posix() for file in folder.path.rglob("*") if file.is_file()]
                for name in sorted(files, key=artifacts.FILE.__eq__):
                    self._put(folder.path / name, f"{there}/{name}")
        for file in (node.executed, node.stamp):
            if file.exists():
                self._put(file, self._beside(node.run, file))

    def fetch(self, node: notebooks.Node, *, notebook: bool) -> None:
        """Copy here what a notebook made, where it fits what is wanted and is not here; and the notebook itself."""
        for folder in node.run.folders:
            try:
                wanted = artifacts.recipe(node.run, folder, here=False)
            except InputError:
                return  # what it is made of is not made yet
            there = self._place(node.run, folder, wanted)
            if artifacts.is_current(folder.path, wanted) or not self.system.exists(f"{there}/{artifacts.FILE}"):
                continue
            with artifacts.locked(folder.path), artifacts.receiving(folder.path, wanted) as aside:
                for file in self.system.find(there):
                    self._get(file, aside / file.removeprefix(f"{there}/"))
        for file in (node.executed, node.stamp) if notebook else ():
            if self.system.exists(self._beside(node.run, file)):
                self._get(self._beside(node.run, file), file)

    def _place(self, run: params.Run, folder: params.Folder, wanted: dict[str, Any]) -> str:
        return f"{self.root}/{run.profile}/{artifacts.part_of(folder.path)}/{artifacts.key(wanted)}"

    def _beside(self, run: params.Run, file: Path) -> str:
        return f"{self.root}/{run.profile}/{file.relative_to(run.build).as_posix()}"

    def _put(self, file: Path, there: str) -> None:
        self.system.makedirs(there.rpartition("/")[0], exist_ok=True)
        self.system.put_file(str(file), there)

    def _get(self, there: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.system.get_file(there, str(file))
