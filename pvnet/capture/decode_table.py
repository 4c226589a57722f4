"""Every field that a decoder can name: :data:`FIELDS`."""

from collections.abc import Mapping
from typing import Final

from pvnet.capture.decode_fields import FieldSpec

FIELDS: Final[Mapping[str, FieldSpec]] = {}
