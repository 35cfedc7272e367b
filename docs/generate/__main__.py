"""Write the reference pages anew: ``make docs``."""

from __future__ import annotations

from docs.generate import cli, python, web

for module in (cli, web, python):
    module.PAGE.write_text(module.reference())
