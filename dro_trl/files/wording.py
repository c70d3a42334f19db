"""Numbers with their nouns, as messages say them."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> counted(1, "question"), counted(1234, "question"), counted(0, "process", "processes")
    ('1 question', '1,234 questions', '0 processes')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
