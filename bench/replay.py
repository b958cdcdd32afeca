"""A recorded teacher behind a real socket: nothing may be lost, and how much the ledger and its client cost.

    python bench/replay.py --json bench/results/replay.json          (about five minutes on two cores)

The teacher is Llama-3.1-70B-Instruct as it once answered the quarter of MMLU-Pro of which Qwen2.5-3B-Instruct was least
sure (see examples/mmlu_pro_real/README.md for the two tables). It is served from a process of its own; a token is four
thirds of a word there. First all is bought with 64 in flight while 5% of the requests meet a fault of
`bench/faulty_server.py`. Then, without faults, rounds in which several ways of asking the same questions take turns:

    plain            the openai SDK as anybody would use it: 64 threads, one client, no ledger
    plain_closing    the same without using a connection twice, as our client never does
    buy              `teachwise.teacher.buying.buy`
    buy_no_fsync     the same with a ledger that does not wait for the disk

Every measurement is a process of its own and covers all requests, from the first to the last, without imports. What is
told is the median of the rounds, and the median of the differences to `plain` of the same round, per request.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import openai
import pyarrow.compute as pc
import pyarrow.parquet as pq
from faults import read_log, serving
from faulty_server import CALM, key_of

from teachwise.request import Reply, Request
from teachwise.teacher.buying import Terms, buy
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.openai import OpenAiTeacher

DATA = Path(__file__).parents[2] / "shared" / "data"
QUESTIONS = "mmlu_pro_qwen25_3b_entropy.parquet"
RATIONALES = "mmlu_pro_teacher_llama31_70b.parquet"
MODEL = "llama-3.1-70b-instruct"
IN_FLIGHT = 64
MAX_TOKENS = 4096
TIMEOUT_SECONDS = 2.0
FAULTY_SHARE = 0.05
MOST_STARTS = 5
"""So often `buy` is called for what an earlier call left without a reply."""


def recorded(data: Path) -> dict[str, tuple[Request, str]]:
    """Requests and what the teacher wrote to them, by request key; of repeated questions the first counts.

    They are for the top quarter by the student's answer entropy, ties at its edge included: 3,008 questions, of
    which 33 are repetitions, so 2,975 requests.
    """
    table = pq.read_table(data / QUESTIONS)
    edge = pc.quantile(table["entropy"], 0.75)[0]
    wrote = {row["question_id"]: row["rationale"] for row in pq.read_table(data / RATIONALES).to_pylist()}
    found: dict[str, tuple[Request, str]] = {}
    for row in table.filter(pc.greater_equal(table["entropy"], edge)).to_pylist():
        lettered = "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, row["options"], strict=False))
        message = {"role": "user", "content": f"{row['question']}\n{lettered}\nThink step by step."}
        request = Request(MODEL, (message,), MAX_TOKENS, 0.0, "1")
        found.setdefault(request.key, (request, wrote[row["question_id"]]))
    return found


class UnsafeLedger(Ledger):
    """A ledger that does not wait for the disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._db.execute("PRAGMA synchronous = OFF")


class Timed:
    """Adds what the methods of a ledger take, in seconds and in processor seconds of the thread that calls them."""

    def __init__(self, ledger: Ledger) -> None:
        self.wall = self.cpu = 0.0
        self.n_writes = 0
        for name in ("reserve", "settle", "plan", "replies", "spent", "accounts"):
            setattr(ledger, name, self._timed(getattr(ledger, name), name in ("reserve", "settle")))

    def _timed(self, method: Callable[..., Any], is_write: bool) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return method(*given, **named)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.thread_time() - cpu
                self.n_writes += is_write

        return timed


def bought(requests: Sequence[Request], address: str, make: type[Ledger] = Ledger) -> dict[str, Any]:
    """Buy everything; texts by key, and what the ledger took."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = make(Path(folder) / "ledger.sqlite")
        timed = Timed(ledger)
        engine = OpenAiTeacher(MODEL, address, timeout_seconds=60.0)
        replies = buy(requests, engine, ledger, Terms(concurrency=IN_FLIGHT))
        engine.close()
        ledger.close()
    texts = {key: reply.text for key, reply in replies.items()}
    return {"texts": texts, "ledger_wall": timed.wall, "ledger_cpu": timed.cpu, "n_writes": timed.n_writes}


def plain(requests: Sequence[Request], address: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Ask everything with the SDK alone; texts by key."""
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60.0, default_headers=headers)

    def ask(request: Request) -> str:
        found = client.chat.completions.create(
            model=request.model,
            messages=list(request.messages),  # type: ignore[arg-type]
            max_tokens=request.max_tokens,
            temperature=request.temperature,
        )
        return found.choices[0].message.content or ""

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        texts = dict(zip((one.key for one in requests), pool.map(ask, requests), strict=True))
    client.close()
    return {"texts": texts}


WAYS: dict[str, Callable[[Sequence[Request], str], dict[str, Any]]] = {
    "plain": plain,
    "plain_closing": lambda requests, address: plain(requests, address, {"Connection": "close"}),
    "buy": bought,
    "buy_no_fsync": lambda requests, address: bought(requests, address, UnsafeLedger),
}


def measured(way: str, address: str, data: Path) -> dict[str, float]:
    """One way, once, in this process: milliseconds per request.

    Raises:
        SystemExit: a text is not what was recorded.
    """
    rows = recorded(data)
    requests = [request for request, _ in rows.values()]
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    found = WAYS[way](requests, address)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    if found.pop("texts") != {key: text for key, (_, text) in rows.items()}:
        raise SystemExit(f"{way}: the texts are not those of the recording")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = {"wall": wall, "cpu": cpu} | {
        name: found[name] for name in ("ledger_wall", "ledger_cpu") if name in found
    }
    per_request = {f"{name}_ms": 1000 * value / len(rows) for name, value in seconds.items()}
    return per_request | ({"n_writes": found["n_writes"]} if "n_writes" in found else {})


def overhead(n_rounds: int, port: int, data: Path) -> dict[str, Any]:
    """Rounds in which the ways take turns, each beginning with another one; medians and paired differences."""
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(n_rounds):
        order = list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]
        found = {}
        for way in order:
            address = f"http://127.0.0.1:{port}/{CALM}-{number}/{way}/v1"
            command = [sys.executable, __file__, "--way", way, "--address", address, "--data", str(data)]
            found[way] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(f"{number + 1}  {way:14} {shown(found[way])}", flush=True)
        rounds.append(found)
    return {
        "rounds": n_rounds,
        "ways": {way: middle(one[way] for one in rounds) for way in WAYS},
        "above_plain": {
            way: middle({name: one[way][name] - one["plain"][name] for name in ("wall_ms", "cpu_ms")} for one in rounds)
            for way in WAYS
            if way != "plain"
        },
    }


def middle(rows: Iterable[dict[str, float]]) -> dict[str, Any]:
    """Median, lowest and highest of every figure."""
    found = list(rows)
    columns = {name: [row[name] for row in found] for name in found[0]}
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
        }
        for name, values in columns.items()
    }


def shown(row: dict[str, Any]) -> str:
    """Figures in a line."""
    return "  ".join(f"{name} {value:,.2f}" for name, value in row.items())


def faulty(port: int, data: Path) -> dict[str, Any]:
    """Buy all from a server that fails, calling again for what has no reply, and compare with the recording."""
    rows = recorded(data)
    requests = [request for request, _ in rows.values()]
    replies: dict[str, Reply] = {}
    with tempfile.TemporaryDirectory() as folder:
        for start in range(MOST_STARTS):
            ledger = Ledger(Path(folder) / "ledger.sqlite")
            engine = OpenAiTeacher(MODEL, f"http://127.0.0.1:{port}/faulty/{start}/v1", timeout_seconds=TIMEOUT_SECONDS)
            replies = buy(requests, engine, ledger, Terms(concurrency=IN_FLIGHT))
            engine.close()
            ledger.close()
            if all(reply.error is None for reply in replies.values()):
                break
    right = sum(key in replies and replies[key].text == text for key, (_, text) in rows.items())
    return {"requests": len(rows), "lost": len(rows) - right, "calls": start + 1}


def counted(log: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What the server's log says of the faulty part, asked in the order of arrival."""
    outcomes = sorted((line for line in log if line["event"] == "outcome"), key=lambda line: line["n"])
    knew: set[str] = set()
    found = {"arrivals": len(outcomes), "faults": 0, "billed": 0, "paid_twice": 0}
    for line in outcomes:
        found["faults"] += line["fault"] != "none"
        found["billed"] += line["billed"]
        found["paid_twice"] += line["billed"] and line["key"] in knew
        if line["billed"] and line["whole"]:
            knew.add(line["key"])
    return found


def measure(data: Path, n_rounds: int, work: Path) -> dict[str, Any]:
    """All figures."""
    texts = {key_of(request.messages): text for request, text in recorded(data).values()}
    (work / "replies.json").write_text(json.dumps(texts), encoding="utf-8")
    log = work / "log.jsonl"
    with serving(log, "--replies", str(work / "replies.json"), "--share", str(FAULTY_SHARE)) as port:
        started = time.monotonic()
        first = faulty(port, data) | {"seconds": round(time.monotonic() - started, 1)}
        first |= counted(read_log(log)["faulty"])
        print("faulty", json.dumps(first), flush=True)
        return {"in_flight": IN_FLIGHT, "faulty": first, "overhead": overhead(n_rounds, port, data)}


def main() -> int:
    """Measure, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not (chosen.data / RATIONALES).exists():
        print(f"no recording at {chosen.data}: nothing measured")
        return 0
    if chosen.way:
        print(json.dumps(measured(chosen.way, chosen.address, chosen.data)))
        return 0
    with tempfile.TemporaryDirectory(prefix="teachwise-replay-") as work:
        found = measure(chosen.data, chosen.rounds, Path(work))
    for way, row in found["overhead"]["above_plain"].items():
        print(f"{way:14} above plain, per request: {json.dumps(row)}")
    if chosen.json:
        facts = {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "openai": openai.__version__}
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(facts | found, indent=2) + "\n", encoding="utf-8")
    return 1 if found["faulty"]["lost"] or found["faulty"]["paid_twice"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
