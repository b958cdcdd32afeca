"""A measure of your own: one function, named in the recipe as `examples/own_measure:close_options`.

    teachwise run toy --until validate "score.also=['examples/own_measure:close_options', random]"

It is scored and validated beside the others, and with `score.measure` it may drive routing and the gate.
"""


def close_options(known):
    """How near the two likeliest options are to one another: 0 is as likely, below 0 apart. Higher = less sure."""
    values = []
    for answer in known.answers:
        first, second = sorted(answer.option_logprobs, reverse=True)[:2]
        values.append(second - first)
    return values


close_options.needs = ("answer",)  # what it is computed from; this line may be left out
close_options.unit = "nats"
