"""overlap: copies are found, and another question of the same template is not taken for one.

How often, on thousands of planted copies, is measured by `bench/guard.py`; here each rule is held to one plain case.
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachwise import overlap
from teachwise.overlap import copies, grams, in_order, is_sign, recitals, too_alike, words

TRAIN = (
    "A farmer keeps 48 hens in the long barn and sells their eggs at the market on Friday.",
    "How many eggs has he left over when every hen lays 5 eggs a week and buyers take 200?",
)
STEM = " ".join(TRAIN)


@pytest.fixture
def asked(example_with):
    """Builds an example of a question, its options and its gold answer."""

    def build(question, options=("40", "35", "200", "240"), answer="A", id="e", split="train"):
        return example_with(id, split, question=question, options=options, answer=answer)

    return build


@pytest.fixture
def found(asked):
    """Kinds of the matches of one question with the held-out one."""

    def find(question, options=("40", "35", "200", "240"), answer="A", held=STEM, held_options=None):
        held = asked(held, held_options or ("40", "35", "200", "240"), split="test")
        return [match.kind for match in copies([asked(question, options, answer)], [held])]

    return find


# words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It costs $1,000.", "it  costs\n1000"),
        ("Is “this” it—or not?", "is 'this' it or not"),
        ("the ＨＩＧＨ value ½", "The high value ½"),
        ("Don’t!", "don't"),
        ("well-known, vis‑à–vis", "well known vis à vis"),
        ("STRASSE", "Straße"),
    ],
)
def test_case_white_space_punctuation_and_width_make_no_other_words(one, other):
    assert words(one) == words(other) != []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("6 - 1 - 9", "6 + 1 + 9"),
        ("3.5 m", "35 m"),
        ("x < y", "x > y"),
        ("1/2", "12"),
        ("x^2", "x*2"),
        ("5 %", "5"),
        ("-3", "3"),
        ("−3", "3"),
        ("kи", "ku"),
        ("कि", "का"),
    ],
)
def test_what_changes_the_meaning_makes_other_words(one, other):
    assert words(one) != words(other)


def test_scripts_without_spaces_are_read_character_by_character():
    assert words("中国的首都") == list("中国的首都")
    assert words("저는 학생") == ["저는", "학생"]


@given(st.text(max_size=60))
def test_words_are_blind_to_case_and_outer_space_and_never_empty(text):
    assert words(f"  {text} \n") == words(text)
    assert all(words(text))
    assert not any(char.isspace() for word in words(text) for char in word)


@pytest.mark.parametrize(
    ("word", "sign"), [("7", True), ("x2", True), ("-", True), ("y", True), ("a", False), ("hen", False), ("中", False)]
)
def test_numbers_variables_and_operators_are_signs(word, sign):
    assert is_sign(word) is sign


def test_runs_of_words():
    assert grams(["who", "is"]) == set()
    assert grams(list("abcd")) == {"a b c", "b c d"}


@given(st.lists(st.integers(0, 3), max_size=8), st.data())
def test_what_is_picked_out_of_a_list_stands_in_it_in_order(many, data):
    picks = data.draw(st.lists(st.booleans(), min_size=len(many), max_size=len(many)))
    assert in_order([one for one, pick in zip(many, picks, strict=True) if pick], many)
    assert not in_order([*many, 9], many)


# copies


def test_the_same_words_and_options_in_any_order_are_exact(found):
    assert found(STEM) == ["exact"]
    assert found(f"  {STEM.upper().replace('.', ' !!')}") == ["exact"]
    assert found(STEM, ("240", "200", "35", "40"), "D") == ["exact"]
    assert found(STEM, answer="B") == ["exact"], "another gold answer makes no other question of the same options"


def test_edited_copies_are_near(found):
    assert found(STEM.replace("hens", "chickens").replace("market", "fair")) == ["near"]
    assert found(f"{STEM} Give your answer as a whole number.") == ["near"]
    assert found(f"Think of the year 1990. {STEM}") == ["near"]
    assert found("All of it happens in a quiet village. " + STEM, held=STEM) == ["near"]
    assert found(STEM, ("40", "1", "2", "3")) == ["near"], "other wrong options"


MUCH = (
    "First, however, think about how people in the country lived long before anybody had a tractor or a telephone, "
    "what they grew in their gardens, how they kept warm in winter, and why so many of their children left for the "
    "towns as soon as they were old enough to work there for wages."
)


def test_much_that_is_added_to_either_question_hides_no_copy(found):
    assert found(f"{MUCH} {STEM}") == ["near"]
    assert found(STEM, held=f"{STEM} {MUCH}") == ["near"]


def test_a_sentence_in_common_makes_no_copy(found):
    assert found(f"{MUCH} How many eggs has he left over?", held=STEM) == []


def test_what_all_questions_open_with_counts_neither_way(asked):
    opening = "Read the following text with care and then choose the best of the answers below it."
    own = "Hens that live in a warm barn lay more eggs than those in the yard because they need less food to keep warm"
    held = [asked(f"{opening} {own}. Why do they lay more?", id="h")]
    held += [asked(f"{opening} {n} {MUCH[:90]} {n}", id=f"h{n}") for n in range(overlap.RARE + 1)]
    other = asked(
        f"{opening} Hens that live in a warm barn lay more eggs than those in fields far from any house or road"
    )
    assert [match.held for match in copies([other], held)] == [0]


def test_other_numbers_make_another_question(found):
    assert found(STEM.replace("48", "50")) == []
    assert found(STEM.replace("48", "5").replace("lays 5", "lays 48")) == [], "the same numbers in another order"


def test_another_gold_answer_makes_another_question(found):
    other = STEM.replace("left over", "sold in all")
    assert found(other) == ["near"]
    assert found(other, answer="C") == []
    speeds = ("-24 feet in every second", "0 feet in every second")
    assert found(other, speeds, held_options=speeds) == ["near"]
    assert found(other, speeds, held_options=("-32 feet in every second", speeds[1])) == []
    assert found(other, ("rises", "falls"), held_options=("rises but then falls very quickly", "falls")) == []


def test_gold_answers_in_nearly_the_same_words_agree(found):
    options = ("the price level rises sharply", "nothing happens at all")
    assert found(STEM, options, held_options=("The price level rises", "nothing happens at all")) == ["near"]
    assert found(STEM, options, held_options=("The wage level falls", "nothing happens at all")) == []


def test_a_long_passage_in_common_is_no_copy_where_the_answers_differ(found):
    assert found(f"{TRAIN[0]} Where does he sell them?", ("market", "barn"), held=f"{TRAIN[0]} Who keeps hens?") == []


def test_a_short_question_is_a_copy_in_the_same_words_alone(found):
    options, held = ("Paris", "Rome", "Oslo"), {"held": "What is the capital of France?"}
    assert found("what is the CAPITAL of France", ("Paris", "Bonn"), held_options=options, **held) == ["near"]
    assert found("What is the capital of Spain?", options, held_options=options, **held) == []
    assert found("What is the capital of Gaul?", ("Paris", "Bonn"), held_options=options, **held) == []


def test_a_question_asked_again_and_again_with_other_options_tells_nothing(asked):
    stem = "Which of the following statements is true of all numbers?"
    held = [asked(stem, ("none of these", f"word {n} here"), id=f"h{n}") for n in range(overlap.RARE + 1)]
    assert copies([asked(stem, ("none of these", "other"))], held) == []
    assert len(copies([asked(stem, ("none of these", "other"))], held[:-1])) == overlap.RARE
    assert [match.held for match in copies([asked(stem, ("word 2 here", "none of these"), "B")], held)] == [2]


def test_few_held_out_questions_do_not_show_what_is_a_template(asked):
    """The toy with a handful of held-out questions: `list first of` and `list max of` the same digits are two."""
    one, two = asked("list first of 7 6 3 1 0", ("7", "3")), asked("list max of 7 6 3 1 0", ("7", "6"), id="h")
    many = [asked(f"question number {n} of all that are here", id=f"h{n}") for n in range(overlap.MANY)]
    assert copies([one], [two]) == copies([one], [two, *many[:50]]) == []
    short = asked("Why is the sky so blue above us?", ("air", "sea"))
    edited = asked("Well then, why is the sky so blue above us?", ("air", "sea"))
    assert copies([edited], [short, *many[:50]]) == []
    assert [match.kind for match in copies([edited], [short, *many])] == ["near"]


def test_long_options_tell_questions_of_one_stem_apart(asked):
    stem, long = "Which of the following is true?", TRAIN[0].removesuffix(".")
    held = [asked(stem, (f"{MUCH[n * 40 :]} {n}", f"It is {n}"), id=f"h{n}") for n in range(4)]
    held.append(asked(stem, (long, "He has none"), id="hens"))
    edited = asked(stem, (long.replace("market", "fair"), "He has many"))
    assert [(match.held, match.kind) for match in copies([edited], held)] == [(4, "near")]


def story(lot):
    """A question of a template: every word that differs is one of a few."""
    names = ["Anna", "Bob", "Carl", "Dora", "Emil", "Fay", "Gus", "Hal"]
    giver, taker, last = lot.sample(names, 3)
    thing, colour, place = lot.choice(["ball", "coin"]), lot.choice(["red", "blue"]), lot.choice(["garden", "market"])
    question = (
        f"{giver} found a {colour} {thing} in the {place} and gave it to {taker}, who later handed it over to {last} "
        f"after lunch. Who has the {colour} {thing} now?"
    )
    return question, names, "ABCDEFGH"[names.index(last)]


@pytest.mark.parametrize(("n_train", "n_held"), [(600, 200), (60, 20), (30, 10)])
def test_questions_of_a_template_are_not_copies_of_one_another(asked, n_train, n_held):
    lot = random.Random(0)
    stories = {story(lot)[0]: story(lot) for _ in range(2000)}
    drawn = list({question: rest for question, *rest in stories.values()}.items())[: n_train + n_held]
    examples = [asked(question, names, gold, id=str(n)) for n, (question, (names, gold)) in enumerate(drawn)]
    assert len(examples) > (n_train + n_held) * 0.8
    assert copies(examples[n_held:], examples[:n_held]) == []
    assert too_alike(examples[:n_held]) > 0.9 * n_held
    assert len(copies(examples[:n_held], examples[:n_held])) == n_held, "word for word they are found"


def test_questions_with_no_words_are_compared_as_they_stand(found):
    assert found("???", ("[]", "()"), held="???", held_options=("{}", "<>")) == []
    assert found("???", ("[]", "()"), held="???", held_options=("()", "[]")) == ["exact"]
    assert found("???", ("[]", "()"), held="!!!", held_options=("()", "[]")) == []


def test_open_questions_are_compared_with_their_answers(example_with):
    held = [example_with("h", "test", question=STEM, options=(), answer="40")]
    assert [m.kind for m in copies([example_with("t", question=STEM, options=(), answer="7")], held)] == ["exact"]
    edited = STEM.replace("hens", "birds")
    assert [m.kind for m in copies([example_with("t", question=edited, options=(), answer="40")], held)] == ["near"]
    assert copies([example_with("t", question=edited, options=(), answer="7")], held) == []


def test_matches_say_which_and_how_much(asked):
    other = asked("Why is the sky blue in the morning and red at the end of the day?", ("air", "sea"))
    edited = asked(STEM.replace("hens", "birds"))
    (match,) = copies([other, edited], [other, asked(STEM)][1:])
    assert (match.other, match.held, match.kind) == (1, 0, "near")
    n = len(grams(words(STEM)))
    assert match.share == pytest.approx((n - overlap.GRAM) / n)


def test_nothing_is_compared_with_nothing(asked):
    assert too_alike([]) == too_alike([asked(STEM)]) == 0
    assert copies([], []) == copies([asked(STEM)], []) == copies([], [asked(STEM)]) == []
    assert recitals([], [], [asked(STEM)]) == []


# recitals


def test_a_text_that_contains_a_held_out_question_recites_it(asked):
    own = asked("What is seven times six?", ("42", "41"))
    text = f"This is like the well known one. {STEM.lower()} Here, however, we multiply, so the answer is 42."
    (match,) = recitals([text], [own], [asked(STEM)])
    assert (match.other, match.held, match.kind, match.share) == (0, 0, "recited", 1.0)
    assert recitals([text.replace("48", "49")], [own], [asked(STEM)]) == []
    assert recitals(["Seven times six is 42."], [own], [asked(STEM)]) == []
    assert recitals(["But what is it in the end?"], [own], [asked("What is it in the end?")]) == [], "too short to tell"


KEEPS = "keeps all of these hens in there until the market opens at last?"


def test_what_a_texts_own_question_has_in_common_does_not_count(asked):
    own, held = asked(f"{TRAIN[0]} Where does he sell them?"), asked(f"{TRAIN[0]} Who is it that {KEEPS}")
    assert recitals([f"The text says: {TRAIN[0]} So at the market."], [own], [held]) == []
    assert len(recitals([f"{TRAIN[0]} But who is it that {KEEPS}"], [own], [held])) == 1
