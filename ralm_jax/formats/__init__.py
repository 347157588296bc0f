"""What bytes hold: lines, JSON, cells, columns, pages, and folders that are one set of files.

In: files and folders.
Out: records, each with where it stands; the text of a page.
Imports: errors.
"""
