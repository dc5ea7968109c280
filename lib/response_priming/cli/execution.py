"""How a notebook is executed: by papermill, in a kernel of this Python."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from response_priming import artifacts, notebooks, params, paths, progress
from response_priming.errors import InputError


def execute_node(loaded: params.Profile, node: notebooks.Node) -> None:
    """Execute a notebook of a profile, and remember with what; `InputError` where something that it needs is stale."""
    names = [other.name for other in notebooks.nodes(loaded)]
    place = f"{names.index(node.name) + 1}/{len(names)}" if node.name in names else "extra"
    notebooks.require(node.run)
    content = node.content()  # as it is now, whatever is edited meanwhile
    with progress.Line(node.name, progress.shared(loaded.build), place=f"[{place}] ") as line:
        line.start(f"{node.name} -> {paths.shown(node.executed)}")
        watch = artifacts.Stopwatch()
        execute(node.notebook, node.executed, node.run.model_dump(), line)
        notebooks.mark_done(node.stamp, content, node.executed, watch.seconds())
        line.done()


def _own_kernel(sockets: str) -> dict[str, Any]:
    """How papermill starts the kernel of this Python, whatever others have its name, and talks to it in a folder."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default
    from traitlets.config import Config

    class OwnKernel(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _own(self) -> KernelSpecManager:
            return KernelSpecManager(parent=self, kernel_dirs=[])

    return {
        "kernel_name": "python3",
        "kernel_manager_class": OwnKernel,
        "start_timeout": 300,
        # With TCP, kernels that start at the same time can race for a port.
        "config": Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
        # Its own log would pass the line by; now and then it says that an ending kernel was interrupted.
        "extra_arguments": ["--IPKernelApp.log_level=CRITICAL"],
    }


def execute(
    notebook: Path, target: Path, values: dict[str, Any], line: progress.Line, *, folder: Path = paths.NOTEBOOKS
) -> None:
    """Execute a notebook by papermill in a folder. It is written beside its target and renamed once complete.

    What it writes to standard error is also said by the line; its standard output is in the executed notebook alone.
    A failed one stays beside its target as `*.partial.ipynb`, readable up to the cell that failed.

    Raises:
        InputError: the notebook raised it.
        SystemExit: it failed otherwise, and the line has said how.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").addHandler(logging.NullHandler())  # what ends a notebook is said here, once
    partial = target.with_suffix(".partial.ipynb")
    where = f"the notebook up to there: {paths.shown(partial)}"
    # The path of a socket has at most 107 bytes.
    place = None if len(os.fsencode(tempfile.gettempdir())) < 70 else "/tmp"
    with artifacts.locked(target), tempfile.TemporaryDirectory(dir=place) as sockets:
        arguments: dict[str, Any] = {
            **_own_kernel(sockets),
            "parameters": values,
            "cwd": folder,
            "coalesce_streams": True,  # of a bar, what is left on a terminal is left in the notebook: nothing
            "progress_bar": False,
            "stderr_file": line,
        }
        try:
            papermill.execute_notebook(notebook, partial, **arguments)
        except papermill.PapermillExecutionError as error:
            if error.ename == InputError.__name__:
                raise InputError(f"{error.evalue} ({partial})") from None
            line.say(f"{line.name} failed; {where}: {error.ename}: {error.evalue}")
            raise SystemExit(1) from None
        except DeadKernelError:
            killed = (
                f"{line.name}: its kernel was killed, perhaps for the memory it took; {where}; run it again, and it"
            )
            raise InputError(f"{killed} goes on from what is finished") from None
        partial.replace(target)
