"""Stage report: executed notebooks and the manuscript become the page.

Reads: executed notebooks, results, `report/`. Writes: `report/_site/index.html`, by Quarto or, without it, by pandoc;
`ro-crate-metadata.json`, the record of the run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cells": ["notebook_page"],
        "check": ["check_sources"],
        "crate": ["write"],
        "variables": ["findings"],
        "page": ["render"],
        "reproduction": ["numbers", "prepare"],
        "verify": ["verify"],
    },
)
