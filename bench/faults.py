"""Kill the client that buys with `kill -9`, at 200 random points, while its server fails in every way; count the harm.

    python bench/faults.py                 200 kills (five to ten minutes on two cores)
    python bench/faults.py --quick         12 kills; the test suite runs this
    python bench/faults.py --broken NAME   with a client that is wrong on purpose (bench/buying_client.py): must find it

A round is one ledger: a client process is started, killed with its whole process group, and started again, several
times, until all is bought or the cap is reached; a third of the rounds have a cap that bears only a part. Half of the
kills fall at a random time, half at a random moment of a chosen phase. The server runs in a process of its own, and all
that is counted here is counted from its log:

    lost           replies at the end that are missing or wrong, or that were on the disk once and vanished or changed
    resent         requests that arrived though their reply was on the disk before this client process began
    paid_twice     requests billed again, though the client had got the whole of a reply that was billed
    unknown        arrivals after a billing that the client cannot know of: a reply that never came, or a kill in flight
    cap_exceeded   completions billed beyond the cap

A kill excuses at most as many replies as may be in flight, and only those of requests that the ledger, as the kill
left it, says are under way. A client that the machine lets stand still for a second and a half may give up a reply
that the server has sent in time, and that would count as its fault.

The last line is JSON. Exit 1 unless lost, resent, paid_twice and cap_exceeded are 0.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from buying_client import BROKEN, MAX_TOKENS, PHASES, Order, begin, needed_tokens, wanted
from faulty_server import CALM, key_of, made_reply

HERE = Path(__file__).parent
CLIENTS = multiprocessing.get_context("forkserver")
"""Clients are forked from a process that has imported all they need: that is all that they do not do themselves."""
CLIENTS.set_forkserver_preload(["buying_client"])
AIMED = ("opening", "planning", "reserving", "sending", "waiting", "settling", "noting", "closing")
CONCURRENCIES = (32, 48, 64)
MOST_KILLS = 8
"""In one round."""
MOST_STARTS = 25
"""Of one round; one that needs more is lost."""
SPAN_SECONDS = 1.2
"""A kill at a random time falls within so much of the opening of the ledger."""
AMPLE = 30
"""A cap that bears everything, kills included, as a multiple of what is needed."""
TOTALS = ("lost", "resent", "paid_twice", "unknown", "cap_exceeded")


@dataclass(frozen=True)
class Committed:
    """What a ledger holds, read without any of our code.

    Attributes:
        results: Text and finish reason of every reply, by the server's key.
        sent: Requests under way, by the server's key.
    """

    results: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    sent: frozenset[str] = frozenset()


@dataclass
class Round:
    """One ledger, from the first start to the end.

    Attributes:
        name: As the server's log has it.
        n_requests: Distinct requests wanted.
        concurrency: Most in flight.
        cap_tokens: The budget.
        killed: What the ledger held right after each kill, by the number of the process.
        end: What it held at the end.
        is_finished: The last process ended by itself, with all bought or, if the cap is tight, with the cap reached.
        is_whole: All was bought.
        told: What `buy` returned in the end.
        phases: Where the kills fell.
        n_locks: Lock files left at the end.
    """

    name: str
    n_requests: int
    concurrency: int
    cap_tokens: int
    killed: dict[int, Committed] = field(default_factory=dict)
    end: Committed = field(default_factory=Committed)
    is_finished: bool = False
    is_whole: bool = False
    told: dict[str, list[str]] = field(default_factory=dict)
    phases: list[str] = field(default_factory=list)
    n_locks: int = 0


@contextmanager
def serving(log: Path, *arguments: str) -> Iterator[int]:
    """The server in a process of its own; its port."""
    command = [sys.executable, str(HERE / "faulty_server.py"), str(log), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield int(process.stdout.readline())  # type: ignore[union-attr]
    finally:
        process.terminate()
        process.communicate()


def look(ledger: Path, copy: Path) -> Committed:
    """What is committed in a ledger, read from a copy, so that nothing is recovered or changed by looking."""
    for end in ("", "-wal"):
        Path(f"{copy}{end}").unlink(missing_ok=True)
        if Path(f"{ledger}{end}").exists():
            shutil.copy(f"{ledger}{end}", f"{copy}{end}")
    with closing(sqlite3.connect(copy)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'request'").fetchone():
            return Committed()
        rows = database.execute("SELECT body, state, text, finish_reason FROM request").fetchall()
    states = [(key_of(json.loads(body)["messages"]), state, text, finish) for body, state, text, finish in rows]
    results = {key: (text, end) for key, state, text, end in states if state in ("ok", "truncated", "refused")}
    return Committed(results, frozenset(key for key, state, *_ in states if state == "sent"))


def kill_in(process: BaseProcess, phase: Path, draw: random.Random) -> str:
    """Kill a client's process group at a random point of its work.

    Returns:
        The phase it was in; "" where it ended before.
    """
    is_aimed, delay = draw.random() < 0.5, draw.uniform(0, SPAN_SECONDS)
    aim, after = draw.choice(AIMED), draw.uniform(0, 0.0005)
    if aim in ("opening", "planning"):
        delay = 0.0
    begun = None
    while process.is_alive():
        now = PHASES[phase.read_bytes()[0]]
        begun = begun or (time.monotonic() if now != "starting" else None)
        is_late_enough = begun is not None and time.monotonic() - begun >= delay
        if is_late_enough and (not is_aimed or now == aim):
            time.sleep(after)
            with suppress(ProcessLookupError):  # it ended by itself just now
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return PHASES[phase.read_bytes()[0]] if process.exitcode == -signal.SIGKILL else ""
        time.sleep(0.0001)
    return ""


def order_for(one: Round, run: int, port: int, folder: Path, broken: str) -> Order:
    """What one client process of a round is told."""
    return Order(
        ledger=str(folder / "ledger.sqlite"),
        address=f"http://127.0.0.1:{port}/{one.name}/{run}/v1",
        n_requests=one.n_requests,
        concurrency=one.concurrency,
        cap_tokens=one.cap_tokens,
        phase=str(folder / "phase"),
        result=str(folder / "result.json"),
        broken=broken,
    )


def play(one: Round, port: int, folder: Path, n_kills: int, draw: random.Random, broken: str = "") -> None:
    """Play a round: start, kill, look, again; then let it end."""
    folder.mkdir()
    ledger, phase, result, said = (folder / name for name in ("ledger.sqlite", "phase", "result.json", "said.txt"))
    for run in range(MOST_STARTS):
        phase.write_bytes(b"\0")
        process = CLIENTS.Process(target=begin, args=(order_for(one, run, port, folder, broken), str(said)))
        process.start()
        where = kill_in(process, phase, draw) if len(one.killed) < n_kills else ""
        if where:
            one.phases.append(where)
            one.killed[run] = look(ledger, folder / "copy")
            continue
        process.join()
        code = process.exitcode
        if code not in (0, 3, 4):
            raise SystemExit(f"the client ended with {code}: {said.read_text() if said.exists() else ''}")
        one.is_whole = code == 0
        one.is_finished = one.is_whole or (code == 3 and one.cap_tokens < needed_tokens(one.n_requests) * AMPLE)
        if one.is_finished:
            break
    one.end = look(ledger, folder / "copy")
    one.n_locks = len(list(folder.glob(".*.lock")))
    one.told = json.loads(result.read_text()) if result.exists() else {}


def n_lost(one: Round, right: Mapping[str, tuple[str, str]]) -> int:
    """Replies of a round that are missing, wrong, or were committed once and are not there or are another now."""
    bad = {key for key, reply in one.end.results.items() if right.get(key) != reply}
    if one.is_whole or not one.is_finished:
        bad |= right.keys() - one.end.results.keys()
    for earlier in one.killed.values():
        bad |= {key for key, reply in earlier.results.items() if one.end.results.get(key) != reply}
    return len(bad)


def in_flight(one: Round, run: int, arrivals: Sequence[Mapping[str, Any]]) -> set[int]:
    """Arrivals that a kill excuses: the last of each request that was under way, no more than may be in flight."""
    if run not in one.killed:
        return set()
    last = {arrival["key"]: arrival["n"] for arrival in arrivals if arrival["run"] == str(run)}
    return set(sorted(n for key, n in last.items() if key in one.killed[run].sent)[-one.concurrency :])


def audit(one: Round, log: Sequence[Mapping[str, Any]], right: Mapping[str, tuple[str, str]]) -> Counter[str]:
    """Count the harm of one round.

    Args:
        one: The round as the bench saw it.
        log: The server's lines of this round, in the order of its log.
        right: Text and finish reason by the server's key, as an undisturbed run has them.
    """
    arrivals = sorted((line for line in log if line["event"] == "arrival"), key=lambda line: line["n"])
    outcome = {line["n"]: line for line in log if line["event"] == "outcome"}
    excused = {n for run in one.killed for n in in_flight(one, run, arrivals)}
    found: Counter[str] = Counter(lost=n_lost(one, right))
    knew, hidden, twice = set(), set(), set()
    for arrival in arrivals:
        key, after = arrival["key"], outcome.get(arrival["n"], {"billed": False})
        before = [kill for run, kill in one.killed.items() if run < int(arrival["run"])]
        found["resent"] += any(key in kill.results for kill in before)
        found["unknown"] += key in hidden and key not in knew
        if not after["billed"]:
            continue
        if key in knew:
            twice.add(key)
        (knew if after["whole"] and arrival["n"] not in excused else hidden).add(key)
    found["paid_twice"] = len(twice)
    found["billed_tokens"] = 0
    for line in log:
        if line.get("billed"):
            found["billed_tokens"] += line["prompt_tokens"] + line["completion_tokens"]
            found["cap_exceeded"] += found["billed_tokens"] > one.cap_tokens
    return found


def rounds_of(n_kills: int, n_requests: int, draw: random.Random) -> Iterator[tuple[Round, int]]:
    """Rounds without end, each with the kills it may take; every third has a cap that bears only a part."""
    need, number = needed_tokens(n_requests), 0
    while True:
        is_tight = number % 3 == 1
        cap = int(need * (draw.uniform(0.5, 1.5) if is_tight else AMPLE))
        kills = draw.randint(0, 2) if is_tight else draw.randint(3, min(MOST_KILLS, max(3, n_kills // 2)))
        yield Round(f"round-{number}", n_requests, CONCURRENCIES[number % 3], cap), kills
        number += 1


def undisturbed(port: int, folder: Path, n_requests: int) -> Round:
    """A round without faults or kills."""
    calm = Round(CALM, n_requests, CONCURRENCIES[0], needed_tokens(n_requests) * AMPLE)
    play(calm, port, folder, 0, random.Random(0))
    made = {key_of(one.messages): made_reply(one.messages, MAX_TOKENS) for one in wanted(n_requests)}
    if not calm.is_whole or dict(calm.end.results) != made:
        raise SystemExit("the undisturbed run is not right: " + (folder / "said.txt").read_text())
    return calm


def read_log(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The server's lines by round."""
    by: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by.setdefault(row["round"], []).append(row)
    return by


def measure(n_kills: int, n_requests: int, seed: int, broken: str) -> dict[str, Any]:
    """Play rounds until there are so many kills, then count."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])  # for CLIENTS' preload
    draw, work, played = random.Random(seed), Path(tempfile.mkdtemp(prefix="teachwise-faults-")), []
    with serving(work / "log.jsonl") as port:
        calm = undisturbed(port, work / CALM, n_requests)
        for one, kills in rounds_of(n_kills, n_requests, draw):
            left = n_kills - sum(len(other.killed) for other in played)
            if left <= 0:
                break
            play(one, port, work / one.name, min(kills, left), draw, broken)
            played.append(one)
            ended = "all bought" if one.is_whole else "cap reached" if one.is_finished else "NOT FINISHED"
            print(f"{one.name}  {one.concurrency} in flight  {ended}  {' '.join(one.phases)}", flush=True)
        time.sleep(2)  # the server ends what dead clients asked for, and bills it
    found = figures(played, read_log(work / "log.jsonl"), calm)
    if is_harmless(found):
        shutil.rmtree(work)
    else:
        print(f"the server's log and the ledgers are kept in {work}")
    return found


def is_harmless(found: Mapping[str, Any]) -> bool:
    """Whether nothing was lost, sent again, paid twice or spent beyond the cap, and all ended as undisturbed."""
    is_same = found["same_as_undisturbed"] == found["whole"]
    return is_same and not any(found[name] for name in TOTALS if name != "unknown")


def figures(played: Sequence[Round], log: Mapping[str, Sequence[Mapping[str, Any]]], calm: Round) -> dict[str, Any]:
    """Everything that was counted."""
    totals: Counter[str] = Counter()
    tight = []
    for one in played:
        found = audit(one, log.get(one.name, []), calm.end.results)
        totals.update(found)
        if one.is_finished and not one.is_whole:
            tight.append(found["billed_tokens"] / one.cap_tokens)
    lines = [line for one in played for line in log.get(one.name, [])]
    whole = [one for one in played if one.is_whole]
    return {
        "rounds": len(played),
        "same_as_undisturbed": sum(one.end.results == calm.end.results and one.told == calm.told for one in whole),
        "whole": len(whole),
        "cap_reached": len(tight),
        "share_of_cap_billed": [round(min(tight), 3), round(max(tight), 3)] if tight else [],
        "requests": calm.n_requests,
        "arrivals": sum(line["event"] == "arrival" for line in lines),
        "billed": sum(bool(line.get("billed")) for line in lines),
        "locks_left": sum(one.n_locks for one in played),
        "phases": dict(Counter(phase for one in played for phase in one.phases).most_common()),
        "faults": dict(Counter(line["fault"] for line in lines if "fault" in line).most_common()),
        "kill_points": sum(len(one.phases) for one in played),
        **{name: totals[name] for name in TOTALS},
    }


def main() -> int:
    """Measure, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broken", choices=sorted(BROKEN), default="")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    kills, requests = (12, 100) if chosen.quick else (200, 240)
    found = measure(chosen.kills or kills, chosen.requests or requests, chosen.seed, chosen.broken)
    for name, value in found.items():
        print(f"{name:20} {value}")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), **found}, indent=2) + "\n")
    print(json.dumps({name: found[name] for name in ("kill_points", *TOTALS)}))
    return 0 if is_harmless(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
