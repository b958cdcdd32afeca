"""The teacher: how it is asked, what that costs, and what its replies are worth.

`buying` sends requests through an `engine` at a bearable `pace`, and notes everything in the `ledger` before it is
done; `delivery` chooses between the wire, `batches` and files (`offline`); `verify` judges raw replies.
"""
