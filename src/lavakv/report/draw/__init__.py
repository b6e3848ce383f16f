"""All drawings of the package, as SVG: geometry is computed here, the templates of `report/templates` write it down.

The report's page needs SVG inside its HTML, with a text for every mark that shows on hover and tap, colours that follow
the theme, and lines that its legend picks out, and it must not depend on the network or a plotting library. So these
charts also serve the report's picture files, `compare --plot` and `bench --out`, in place of a second stack. PNG and
PDF are converted from the same SVG by vl-convert (`draw/files.py`).
"""
