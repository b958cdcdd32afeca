"""The whole method in one straight line, through the public API. Read this first; the package adds only safety.

    python examples/flat_loop.py            about two minutes on two cores, offline
    python examples/flat_loop.py --small    a quick walk through the same lines; its figures mean little

Expect (full size): the score predicts errors (ROC AUC above 0.9), the banded student beats the random control or is not
told apart from it, and the interval says which.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import teachwise as tw
from teachwise.toy.server import serve

parser = argparse.ArgumentParser()
parser.add_argument("--small", action="store_true")
size = (160, 60, 100, 1) if parser.parse_args().small else (1200, 300, 800, 6)
n_train, n_dev, n_test, epochs = size
work = Path(tempfile.mkdtemp(prefix="flat-loop-"))

# 1. Questions: typed, distinct, in splits that do not touch.
task = tw.load_task("toy", limit={"train": n_train, "dev": n_dev, "test": n_test}, seed=0)
examples = [row.example(row.split) for row in task.rows()]
train = [example for example in examples if example.split == "train"]
held_out = [example for example in examples if example.split != "train"]
gold = {example.id: example.answer for example in examples}

# 2. Score: one forward pass per question; the entropy of the answer's single token, over the whole vocabulary, in nats.
student = tw.HfEngine("toy")


def score(engine, questions):
    """Entropy and correctness of the direct answer to each question."""
    prompts = engine.chat.prompt_ids([task.messages(q, "direct") for q in questions])
    entropy, correct = np.zeros(len(questions)), np.zeros(len(questions), dtype=bool)
    for batch in tw.length_batches([len(prompt) for prompt in prompts], 8192):
        found = engine.answer_scores([prompts[i] for i in batch], [questions[i].letters for i in batch])
        for i, one in zip(batch, found, strict=True):
            entropy[i] = one.entropy_nats
            correct[i] = task.read_answer(questions[i], one.token) == questions[i].answer
    return entropy, correct


entropy, correct = score(student, train)

# 3. Validate: does the score predict the student's errors? If not, stop here: no money has been spent.
auc = tw.roc_auc(entropy, ~correct)
print(f"base accuracy {correct.mean():.3f}; ROC AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}, n={auc.n})")
if auc.value < 0.6:
    raise SystemExit("the score does not predict errors; choose another one")

# 4. Route: easy and medium get their answer, hard gets a rationale. The control gives as many rationales at random.
bands = tw.cut_bands([example.id for example in train], entropy, (0.25, 0.75))
hard = [i for i, band in enumerate(bands) if band == "hard"]
chance = sorted(np.random.default_rng(0).choice(len(train), len(hard), replace=False).tolist())
arms = {"banded": hard, "random": chance}

# 5. Teach: every distinct request is paid once for all arms, and a whole reply is never lost.
server = serve().start()
teacher = tw.load_teacher("openai", model="toy-teacher", base_url=server.base_url)
ledger = tw.Ledger(work / "ledger.sqlite")
wanted = {
    train[i].id: tw.Request("toy-teacher", tuple(task.teacher_messages(train[i])), 96, 0.0, task.prompt_version)
    for chosen in arms.values()
    for i in chosen
}
terms = tw.Terms(limits=tw.Limits(teacher_tokens=200_000))
bought = tw.buy(list(wanted.values()), teacher, ledger, terms)
replies = {id_: bought[request.key] for id_, request in wanted.items()}
by_id = {example.id: example for example in train}
rationales = {  # wrong and unreadable ones are not learnt
    id_: reply.text
    for id_, reply in replies.items()
    if reply.state == "ok" and task.read_answer(by_id[id_], reply.text) == gold[id_]
}
print(f"bought {len(wanted)} rationales for {ledger.spent().tokens:,} tokens; {len(rationales)} state the right answer")

# 6. Train: answers first, then rationales, on the same weights. The loss is on the completion and its end alone.


def rows(questions, mode, completions):
    """Training sequences: the prompt as the student will see it, then what it should write."""
    prompts = student.chat.prompt_ids([task.messages(q, mode) for q in questions])
    return [tw.Row(p, c) for p, c in zip(prompts, student.chat.completion_ids(completions), strict=True)]


def settings(n_rows, passes):
    """The same recipe for every stage and arm."""
    updates = max(1, -(-n_rows // 16) * passes)
    return tw.Settings(None, updates, 1e-3, "cosine", updates // 30, 0.01, 16, 16, False, 10_000, 0)


options = {"model": "toy", "revision": None, "dtype": "auto", "device": "auto", "trust_remote_code": False}
tuned = {}
for name, chosen in arms.items():
    easy = [example for i, example in enumerate(train) if i not in set(chosen)]
    taught = [train[i] for i in chosen if train[i].id in rationales]
    answers = rows(easy, "direct", [example.answer for example in easy])
    chains = rows(taught, "cot", [rationales[example.id] for example in taught])
    first, last = work / name / "stage-0", work / name / "stage-1"
    tw.train_stage(options, None, answers, first, settings(len(answers), epochs), lambda step, note: None)
    tw.train_stage(options, first, chains, last, settings(len(chosen), 2 * epochs), lambda step, note: None)
    tuned[name] = tw.HfEngine(str(last))

# 7. Evaluate: greedily; at once where the tuned student is sure, thinking first where it is not. Threshold from dev.


def think(engine, questions):
    """Correctness of the answer after a chain of thought."""
    prompts = engine.chat.prompt_ids([task.messages(q, "cot") for q in questions])
    right = np.zeros(len(questions), dtype=bool)
    for batch in tw.length_batches([len(prompt) + 80 for prompt in prompts], 16384):
        for i, one in zip(batch, engine.generate([prompts[i] for i in batch], 80), strict=True):
            right[i] = task.read_answer(questions[i], one.text) == questions[i].answer
    return right


on_dev = np.array([example.split == "dev" for example in held_out])
answers = {}
for name, engine in {"base": student, **tuned}.items():
    unsure, direct = score(engine, held_out)
    thought = think(engine, held_out)
    threshold = tw.routing_threshold(unsure[on_dev], direct[on_dev], thought[on_dev])
    answers[name] = np.where(unsure > threshold, thought, direct)[~on_dev]

# 8. Compare: on the same test questions, beside the random control, with an interval.
for name, right in answers.items():
    own = tw.bootstrap_mean(right[None])
    gap = tw.bootstrap_difference(right[None], answers["random"][None])
    print(
        f"{name:7} {own.value:.3f} ({own.low:.3f} to {own.high:.3f})"
        f"   against random {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    )
print(f"one seed: the intervals cover the {own.n} questions only, not the luck of training; files are in {work}")
server.stop()
