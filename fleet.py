"""Entry point: `python fleet.py launch --missions A,B,C,D,E` (the work is in the fleet package)."""

from fleet.cli import main

if __name__ == "__main__":
    main()
