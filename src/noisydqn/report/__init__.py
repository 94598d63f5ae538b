"""Reports: what runs show together, as statistics, tables, figures and one page.

Runs are values here (`records.Run`), whoever recorded them. How the folders of noisydqn become
such values is the business of `noisydqn.runs`.
"""
