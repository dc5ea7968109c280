"""Run `uv pip` on this Python's environment with pip's settings, which uv does not read: `uv_pip.py install ...`."""

import ast
import os
import subprocess
import sys

# What decides where packages come from, as pip calls it, and the flag or the variable that tells uv.
FLAGS = {
    "constraint": "--constraint",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "index-url": "--default-index",
    "trusted-host": "--allow-insecure-host",
}
VARIABLES = {"cert": "SSL_CERT_FILE", "client-cert": "SSL_CLIENT_CERT", "no-index": "UV_NO_INDEX", "proxy": "ALL_PROXY"}


def pip_settings() -> dict[str, str]:
    """What pip's files and PIP_* variables say, by pip's name, e.g. `find-links`; as for pip, variables win."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    settings = {}
    for section in ("global.", "install.", ":env:."):
        for line in listed:
            if line.startswith(section):
                name, _, quoted = line.removeprefix(section).partition("=")
                if value := ast.literal_eval(quoted):  # an empty one says nothing to pip
                    settings[name] = value
    return settings


def main(command: str, *arguments: str) -> None:
    """Become `uv pip COMMAND` with the settings before the arguments."""
    settings = pip_settings()
    flags = [f"{flag}={value}" for name, flag in FLAGS.items() for value in settings.get(name, "").split()]
    # uv takes every version from the first index that has the package, pip the best of all indexes. A further index may
    # lack the version that the lock pins, so uv has to look at all of them, too; the lock says which version is wanted.
    flags.append("--index-strategy=unsafe-best-match")
    os.environ.update({variable: settings[name] for name, variable in VARIABLES.items() if name in settings})
    uv = [sys.executable, "-m", "uv", "pip", command, f"--python={sys.executable}"]
    os.execv(uv[0], [*uv, *flags, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
