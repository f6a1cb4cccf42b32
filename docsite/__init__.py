"""What the documentation is made with: reference pages from the code, result tables from stored figures, the picture,
and the check of the words. ``python -m docsite`` writes the pages, ``python -m docsite --check`` says which are stale.
"""
