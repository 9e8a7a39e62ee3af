"""`kuberay`: the manifests of a Ray cluster on Kubernetes."""

from __future__ import annotations

from typing import Annotated

import typer

from autoswift.cli.options import Command, Json

Image = Annotated[str, typer.Option("--image", metavar="IMAGE", help="cli.opt.kuberay.image")]
Workers = Annotated[int, typer.Option("--workers", metavar="N", min=1, help="cli.opt.kuberay.workers")]
Gpus = Annotated[int, typer.Option("--gpus", metavar="N", min=0, help="cli.opt.kuberay.gpus")]
Cpus = Annotated[int, typer.Option("--cpus", metavar="N", min=1, help="cli.opt.kuberay.cpus")]
Memory = Annotated[int, typer.Option("--memory", metavar="GIB", min=1, help="cli.opt.kuberay.memory")]
Storage = Annotated[int, typer.Option("--storage", metavar="GIB", min=1, help="cli.opt.kuberay.storage")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="cli.opt.kuberay.name")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command("kuberay", cls=Command, help="cli.help.kuberay", rich_help_panel="cli.panel.look")(kuberay)


def kuberay(  # noqa: PLR0913 - one parameter an option
    image: Image,
    workers: Workers = 2,
    gpus: Gpus = 1,
    cpus: Cpus = 8,
    memory: Memory = 64,
    storage: Storage = 200,
    name: Name = "autoswift",
    as_json: Json = False,
) -> None:
    """Prints the manifests; nothing is applied."""
    import yaml

    from autoswift.cli.output import print_json
    from autoswift.search.executors.kuberay import ClusterShape, manifests

    shape = ClusterShape(
        image=image, workers=workers, gpus=gpus, cpus=cpus, memory_gib=memory, storage_gib=storage, name=name
    )
    made = manifests(shape)
    if as_json:
        print_json(made)
    else:
        typer.echo(yaml.safe_dump_all(made, sort_keys=False, allow_unicode=True), nl=False)
