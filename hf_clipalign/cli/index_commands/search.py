"""`clipalign search`: images by words, by images, by both; one query or many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.index_commands.shared import CsvOption, HtmlOption, IndexArgument, JsonOption, open_index, show
from hf_clipalign.cli.options import console, next_step

_SIGNED = re.compile(r"([-+−])((?:[\d.]+[*×])?)(\S.*)", re.DOTALL)


def search(
    index: IndexArgument,
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUERY]", help="Words; or arithmetic of words in quotation marks and of images."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="An image, of the index or not; can be given several times."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="WORDS|FILE", help="What hits should be unlike; can be given several times."),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Many queries in one pass: a text file with one a line, a CSV with a column query, image or not, a "
            "folder of images, or - for lines of the standard input.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-n", help="How many hits of a query.", min=1)] = 8,
    offset: Annotated[int, typer.Option(help="Leave out so many of the best: the next page.", min=0)] = 0,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Which files: path=holidays/*, class=dogs, since=2024-05, until=2024, min-size=200kB, max-size=2MB; "
            "can be given several times.",
        ),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Leave out hits below, from 0 to 1. One image: chance that a hit shows it again. Words: share of "
            "unrelated texts whose best image stands out less.",
        ),
    ] = None,
    with_itself: Annotated[
        bool, typer.Option("--with-itself", help="Let an image of the index find itself, too.")
    ] = False,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    html: HtmlOption = None,
) -> None:
    """Search an index by words, by images, or by arithmetic of both.

    Images alone are answered by the head for images (aligned), if the index has a band; words, and words with images,
    by the base model's (raw). The result says which.

    Examples:

    [bold]clipalign search photos.index a red car[/]

    [bold]clipalign search photos.index --image beach.jpg --not snow --top 20 --html hits.html[/]

    [bold]clipalign search photos.index '"red car" - "toy" + photo.jpg' --where since=2024[/]

    [bold]clipalign search photos.index '-"toy" + "red car"'[/]   (what comes first may be subtracted)

    [bold]clipalign search photos.index -- -toy +"red car"[/]   (the same, a summand in each argument)

    [bold]clipalign search photos.index --queries queries.txt --csv > hits.csv[/]
    """
    from hf_clipalign.search.answers.filters import parse_conditions
    from hf_clipalign.search.engine import search as answer_all
    from hf_clipalign.search.query import Query

    opened = open_index(index)
    unlike_parts = Query.of(unlike=unlike).parts if unlike else ()
    listed = None if queries is None else _listed(queries, bool(query or image), opened.files)
    if listed is None:
        parts = [*(Query.parse(_line(query), opened.files).parts if query else ())]
        asked = [Query((*parts, *(Query.of(image=image).parts if image else ()), *unlike_parts))]
    else:
        asked = [Query((*one.query.parts, *unlike_parts)) for one in listed]
    if with_itself and not any(part.kind == "image" for one in asked for part in one.parts):
        raise ClipAlignError("--with-itself is for queries by an image: leave it out, words find every image.")
    wishes: dict[str, Any] = {"where": parse_conditions(where or ()), "top_k": top, "offset": offset}
    wishes |= {"include_self": with_itself, "min_confidence": min_confidence}
    if listed is None:
        _show_one(answer_all(opened, asked, **wishes)[0], index, as_json, as_csv, html)
    else:
        _show_all(listed, _answers(opened, listed, unlike_parts, wishes), as_json, as_csv, html)


def _line(words: Sequence[str]) -> str:
    """The query of some arguments: summands where each begins with a sign, else words with spaces between."""
    from hf_clipalign.search.query import is_image_name

    signed = [_SIGNED.fullmatch(word) for word in words]
    if not all(signed) or (len(words) == 1 and '"' in words[0]):
        return " ".join(words)
    terms = []
    for sign, weight, name in (match.groups() for match in signed if match):
        mark = "" if '"' in name or is_image_name(name) else '"'
        terms.append(f"{sign} {weight}{mark}{name}{mark}")
    return " ".join(terms)


def _listed(queries: str, is_also_one: bool, files: Any) -> Any:
    from hf_clipalign.search.answers.query_lists import read_queries

    if is_also_one:
        raise ClipAlignError("a query and --queries are two ways to ask: give one of them.")
    return read_queries(queries, files)


def _answers(opened: Any, listed: Any, unlike_parts: Any, wishes: dict[str, Any]) -> Any:
    from hf_clipalign.search.answers.query_lists import answer_list

    return answer_list(opened, listed, unlike_parts, **wishes)


def _show_one(answer: Any, index: Any, as_json: bool, as_csv: bool, html: Any) -> None:
    from hf_clipalign.search.answers.hits import near_path
    from hf_clipalign.search.answers.pages import answer_group

    is_read = show(
        as_json,
        as_csv,
        html,
        json_text=answer.to_json,
        csv_text=answer.to_csv,
        table=lambda: answer.table() if answer else None,
        title=answer.query,
        groups=lambda: [answer_group(answer)],
    )
    if is_read and answer:
        next_step("clipalign", "search", index, "--image", near_path(answer[0].path))
    elif is_read:
        console.print(answer.note, soft_wrap=True)


def _show_all(listed: Any, answers: Any, as_json: bool, as_csv: bool, html: Any) -> None:
    from hf_clipalign.search.answers import query_lists as forms

    show(
        as_json,
        as_csv,
        html,
        json_text=lambda: forms.answers_as_json(listed, answers),
        csv_text=lambda: forms.answers_as_csv(listed, answers),
        table=lambda: forms.answers_as_tables(answers),
        title=counted(len(listed), "query"),
        groups=lambda: forms.answers_as_groups(listed, answers),
    )
