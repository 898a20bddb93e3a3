"""Files as the world sends them, each with the answers that would be right.

Every case is made here, from one small photo of a face and nothing else, so that the table can be
read and none of the hostile files lies in the repository.
"""

from __future__ import annotations

from functools import cache

from tests.uploads.broken import broken
from tests.uploads.case import Case
from tests.uploads.foreign import foreign
from tests.uploads.formats import formats
from tests.uploads.hostile import hostile


@cache
def all_cases() -> list[Case]:
    """The whole table; names are unique. Made once: some files take a second."""
    cases = [*formats(), *broken(), *hostile(), *foreign()]
    assert len({case.name for case in cases}) == len(cases)
    return cases
