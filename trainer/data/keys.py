"""Keys in one spelling: the same document has the same key, whichever type or file its key was stored in.

A column of whole numbers turns to floats in the shard where one is missing, and to text in CSV. Hashed as they are
spelled, 17 and 17.0 fall into different buckets, and the rows of one document into training and held-out data.
"""

import math
import re
from decimal import Decimal

from trainer.base.errors import DataError
from trainer.data.readers import Row

_WHOLE = re.compile(r"(-?\d+)\.0+")
_EXACT = 1 << 53  # from here on a float stands for several whole numbers


def spelled(value: object) -> str | None:
    """The one spelling of a key: whole numbers without a point, `true` and `false`, text as it is. None where there is
    no key: null, NaN, and text without a sign.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    text = "" if value is None else str(value)
    if not text.strip():
        return None
    if whole := _WHOLE.fullmatch(text):
        return whole.group(1)
    return text.lower() if text.lower() in ("true", "false") else text


def key_of(row: Row, column: str) -> str | None:
    """The key in a column of a row. Raises UserError for a float that stands for several whole numbers."""
    value = row.columns.get(column)
    if isinstance(value, float) and math.isfinite(value) and abs(value) >= _EXACT:
        remedy = "Store the column as whole numbers or as text"
        raise DataError(
            "a key is a float too large to be exact",
            got=f"{column}: {value!r}",
            remedy=remedy,
            file=row.file,
            line=row.line,
        )
    return spelled(value)
