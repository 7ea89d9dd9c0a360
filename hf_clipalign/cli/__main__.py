"""`python -m hf_clipalign.cli`, for launchers that start modules."""

from hf_clipalign.cli import main

if __name__ == "__main__":
    main()
