"""The figures of the examples of one stream: the file in, then the fixes; in peace, and with the
server killed inside every push (SC-46, BK-24, QL-24: and the file once more after the fixes)."""

import pytest

from harness import same_rows
from histories import verified
from stories import BOOKS, QUERY_LOG, SUPPLY_CHAIN

STORIES = {story.name: story for story in (BOOKS, SUPPLY_CHAIN, QUERY_LOG)}
WORLDS = [(name, world) for name in STORIES for world in ("clean", "killed")]

both_logs = pytest.mark.both_logs


@pytest.fixture(scope="module", params=WORLDS, ids="-".join)
def base(request, tmp_path_factory, new_log):
    """A server with the file in. Holds its `.story`."""
    name, world = request.param
    STORIES[name].skip_without_base()
    with STORIES[name].told(tmp_path_factory.mktemp(name), new_log(), world) as server:
        server.story = STORIES[name]
        yield server


@pytest.fixture(scope="module")
def fixed(base):
    base.story.go_on(base)
    return base


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_every_wanted_figure_has_a_case(story):
    numbered = [case["id"] for case in story.cases if "-" in case["id"]]
    assert numbered == list(story.wanted)
    assert all(case.get("checks") or case.get("rule_sets") for case in story.cases)
    assert {case["of"] for case in story.cases} == {"base", "fixed"}


@both_logs
def test_figures_of_the_file(base):
    base.story.assert_figures(base, "base")


@both_logs
def test_figures_with_the_fixes(fixed):
    fixed.story.assert_figures(fixed, "fixed")


@both_logs
def test_the_quarantine_names_every_rule_broken(fixed):
    fixed.story.assert_quarantine(fixed)


@both_logs
def test_every_kill_fell_inside_its_push(fixed):
    assert len(fixed.kills) == (3 if fixed.world == "killed" else 0)
    for kill in fixed.kills:
        assert 0 < kill.acked < kill.lines and kill.still_pushing, kill


@both_logs
def test_the_lake_keeps_its_promises(fixed):
    """Checked beside the running server: every model is compared with its SQL."""
    report = verified(fixed, fixed.story.project)
    assert report["green"] and report["not_compared"] == [], report
    assert report["looked_at"]["accepted"] > fixed.story.lines


@both_logs
def test_after_a_restart_every_table_is_as_before(fixed):
    names = fixed.sql(
        "SELECT concat(table_schema, '.', table_name) FROM information_schema.tables "
        "WHERE table_schema IN ('bronze', 'silver', 'gold', 'quarantine')"
    )
    assert len(names) == fixed.story.relations
    before = {name: fixed.sql(f"SELECT * FROM {name}") for (name,) in names}
    fixed.restart()
    fixed.wait()
    for name, rows in before.items():
        same_rows(fixed.sql(f"SELECT * FROM {name}"), rows)
