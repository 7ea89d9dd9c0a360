"""`clipalign search`: images by words, by images, by both."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hf_clipalign.cli.index_commands.shared import CsvOption, HtmlOption, IndexArgument, JsonOption, open_index, show
from hf_clipalign.cli.options import console, next_step


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
    top: Annotated[int, typer.Option("--top", "-n", help="How many hits.", min=1)] = 8,
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
        float | None, typer.Option(metavar="P", help="Leave out hits below, from 0 to 1. For one image as the query.")
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
    """
    from hf_clipalign.search.answers.filters import parse_conditions
    from hf_clipalign.search.answers.hits import near_path
    from hf_clipalign.search.engine import search as answer_all
    from hf_clipalign.search.query import Query

    opened = open_index(index)
    parts = [*(Query.parse(" ".join(query), opened.files).parts if query else ())]
    if image or unlike:
        parts += Query.of(image=image, unlike=unlike).parts
    conditions = parse_conditions(where or ())
    wishes: dict[str, Any] = {"where": conditions, "top_k": top, "offset": offset, "include_self": with_itself}
    (answer,) = answer_all(opened, [Query(tuple(parts))], min_confidence=min_confidence, **wishes)
    is_read = show(
        as_json,
        as_csv,
        html,
        json_text=answer.to_json,
        csv_text=answer.to_csv,
        table=lambda: answer.table() if answer else None,
        title=answer.query,
        groups=lambda: _groups(answer),
    )
    if is_read and answer:
        next_step("clipalign", "search", index, "--image", near_path(answer[0].path))
    elif is_read:
        console.print(answer.note, soft_wrap=True)


def _groups(answer: Any) -> list[Any]:
    from hf_clipalign.search.answers.pages import answer_group

    return [answer_group(answer)]
