"""`python -m teachwise` is the `teachwise` command."""

from teachwise.cli import main

if __name__ == "__main__":
    main()
