"""Lock files: who lives is seen by others, and what the dead left is swept away."""

from teachwise.teacher.lifeline import Lifeline


def locks(path):
    return sorted(file.name for file in path.glob("*.lock"))


def test_a_sweep_leaves_the_lock_of_a_process_that_lives(tmp_path):
    one, other = Lifeline(tmp_path / "ledger.sqlite"), Lifeline(tmp_path / "ledger.sqlite")
    name = one.begin()
    (tmp_path / ".ledger.sqlite.dead.lock").touch()
    other.sweep()
    assert locks(tmp_path) == [f".ledger.sqlite.{name}.lock"]
    assert other.lives(name)
    assert not other.lives("dead")
    one.end()
    assert not other.lives(name)
    assert locks(tmp_path) == []


def test_a_name_is_kept_and_no_two_are_alike(tmp_path):
    one, other = Lifeline(tmp_path / "ledger.sqlite"), Lifeline(tmp_path / "ledger.sqlite")
    assert one.name is None
    assert one.begin() == one.begin() == one.name
    assert one.begin() != other.begin()
    assert one.lives(one.begin()), "whether or not the system lets a process take its own lock twice"
    one.end()
    other.end()
