"""The planted bugs of `make mutants` can be planted in the source as it is: drift is seen at once, not in an hour."""

from pathlib import Path

import pytest

from tests.mutants.plan import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_text_is_in_the_source(mutant: Mutant) -> None:
    for edit in mutant.edits:
        assert edit.files(ROOT)
        assert edit.new != edit.old
