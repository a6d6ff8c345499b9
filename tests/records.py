"""Checks of recorded experiments, the same for every chapter."""

from reclib.experiments.results import load, results_path
from reclib.ledger import claims


def check_record_is_whole(chapter, name):
    """Every cell of every claim of a chapter is recorded with as many seeds as the claim asks for."""
    assert results_path(name).exists(), f"record it: make experiments CH={chapter:02d}"
    results = load(name)
    for claim in claims(chapter=chapter):
        for cell in claim.statistic.cells if claim.statistic else ():
            seeds = max(len(cell.per_seed(results)), len(cell.swept(results)))  # at one x, or along all of them
            assert seeds >= claim.seeds, f"{claim.id}: {cell}"


def check_world_cells(chapter, results, seeds):
    """A run, however small, records the cells of the ad world that the claims ask for."""
    statistics = [claim.statistic for claim in claims(chapter=chapter) if claim.statistic]
    cells = [cell for statistic in statistics for cell in statistic.cells if cell.dataset == "adworld"]
    assert cells
    for cell in cells:
        assert set(cell.per_seed(results).index) == set(seeds), str(cell)
