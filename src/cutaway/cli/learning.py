"""Commands about sparse features: learn, evaluate, features."""

from __future__ import annotations

import inspect
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..catalogue import find
from . import folder, inputs
from .screen import console, say


def learn(model: Annotated[str, tyro.conf.Positional] = "pico", /, site: str = "", method: str = "topk", tokens: str = "1M",
          data: str = "stdlib", set: tuple[str, ...] = (), l0: float | None = None, out: Path = Path("runs/learn"),
          batch: int = 1024, seed: int = 0, selection: str = "auto", accumulate: int = 1, patience: float | None = None,
          save_every: float = 120.0, profile: bool = False, device: str = "cpu", pickle: bool = False,
          split: str = "data") -> None:
    """Learn sparse features at one or more sites of a network, all in one pass over the data.

    Interrupted with Ctrl-C, the same command goes on where it stopped.

    Args:
        model: A model's folder, hub id, or "pico".
        site: Where, such as blocks.3 or blocks.*.mlp; left out, the residual stream at the middle block, or for a transcoder
            its MLP, for a crosscoder all blocks, and for a cross-layer transcoder the MLPs of all.
        method: A method of the family dictionary; `cutaway catalogue dictionary` lists them.
        tokens: How many tokens to train on, such as 500k or 2M.
        data: Text files (globs and commas allowed), or stdlib, the source of Python's standard library, or the folder that
            `cutaway harvest` wrote; for a network that reads images, a folder of them.
        set: Settings of the method, such as width=4096 k=64.
        l0: How many latents should fire for each token on average, whatever the method calls that.
        out: Folder for the dictionaries, the history and the configuration.
        batch: Tokens a step.
        seed: Of initialisation, order and shuffling.
        selection: How the largest latents are looked for: fast (in bfloat16), exact, or auto.
        accumulate: Go through each batch in so many parts, to save memory.
        patience: End early when FVU has not improved for this share of the training, such as 0.1.
        save_every: Seconds between checkpoints.
        profile: Print where the time went.
        device: Where the network runs, such as cpu or cuda.
        pickle: Also read weights that are saved as a pickle.
        split: What is divided among processes that torchrun started: data, width or sites.
    """
    from ..timing import profiled
    from ..train import Schedule, Settings
    from ..train import learn as train
    recipe = _recipe(method, set) if l0 is None else _recipe(method, set).with_l0(l0)
    settings = Settings(selection, accumulate, Schedule(patience=patience))
    local = os.environ.get("LOCAL_RANK")
    net = inputs.network(model, f"cuda:{local}" if local and device == "cuda" else device, pickle)
    site = site or recipe.wiring.usual(net.n_blocks)
    source = inputs.data(data, net)
    asked = {"model": model, "site": site, "method": method, "tokens": tokens, "data": data, "set": set, "l0": l0,
             "out": out, "batch": batch, "seed": seed, "selection": selection, "accumulate": accumulate, "patience": patience,
             "save_every": save_every, "profile": profile, "device": device, "pickle": pickle, "split": split}
    with folder.begun(out, "learn", asked), profiled() if profile else nullcontext() as times:
        run = train(net, source, {site: recipe}, tokens, batch, seed, out, save_every, settings, split=split)
    if int(os.environ.get("RANK", 0)):
        return      # the first process speaks for all
    for key, history in run.history.items():
        last = history[-1]
        say(f"{key}: {last['tokens']:,} tokens, FVU {last['fvu']:.4f} on the last batch, L0 {last['l0']:.1f}, "
            f"dead {last['dead']:.1%}")
    if profile:
        say(times)
    say(f"The dictionaries are in {out}; next: cutaway evaluate {out}")


def _recipe(method: str, settings: tuple[str, ...]) -> Any:
    """A recipe from `name=value` settings, read by the types of the method's own signature."""
    maker = find(method, "dictionary")
    known, given = maker.signature.parameters, {}
    if needed := [name for name, parameter in known.items() if parameter.default is parameter.empty]:
        raise ValueError(f"{method} is no recipe to learn by: it is called from Python with {', '.join(needed)}; "
                         f"`cutaway catalogue {method}` says what it does.")
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known or not value:
            options = ", ".join(f"{p.name}={p.default}" for p in known.values())
            raise ValueError(f"{method} has no setting {setting!r}; its settings are {options}.")
        given[name] = _read(name, value, known[name])
    return maker.object(**given)


def _read(name: str, value: str, parameter: inspect.Parameter) -> Any:
    if "str" in str(parameter.annotation):
        return value
    try:
        return int(value) if "int" in str(parameter.annotation) else float(value)
    except ValueError:
        raise ValueError(f"{name} is a number; found {value!r}.") from None


def _load(run: Path, device: str) -> tuple[Any, dict[str, Any]]:
    """The run that `cutaway learn`, `cutaway convert` or `cw.learn` left in a folder, and the model and data that it names."""
    from ..train import load
    from ..train.run import said
    if (run / "config.json").exists() or not (run / "learning.json").exists():
        arguments = folder.read(run)["arguments"]
        if "model" not in arguments or "data" not in arguments:
            raise ValueError(f"{run} holds no dictionaries that were learned; give the folder that `cutaway learn` wrote.")
    else:
        arguments = said(run)
    net = inputs.network(arguments["model"], device, arguments.get("pickle", False))
    return load(run, net), arguments


def only(loaded: Any, site: str) -> Any:
    """A run with the one dictionary that is asked for, or its only one; a layer of a cross-layer transcoder counts as one."""
    from ..dictionaries.apart import apart
    found = apart(loaded.dictionaries)
    if not site and len(found) > 1:
        raise ValueError(f"this run has dictionaries at {', '.join(found)}; choose one with --site.")
    return loaded.only(site or next(iter(found)))


def evaluate(run: Annotated[Path, tyro.conf.Positional], /, data: str = "", tokens: str = "50k", device: str = "cpu",
             profile: bool = False, also: tuple[Path, ...] = (), site: str = "", metrics: tuple[str, ...] = ()) -> None:
    """Evaluate the dictionaries of a run: FVU, L0, dead and dense latents, loss recovered, KL; or their whole profile.

    Args:
        run: The folder that `cutaway learn` wrote, such as runs/learn.
        data: Text files or stdlib:test; left out, the standard library's test split for runs that learned from it, and
            otherwise the data that the run learned from.
        tokens: On how many tokens, such as 50k or all.
        device: Where the network runs, such as cpu or cuda.
        profile: Every metric, each figure with its floor and ceiling from the same run; a few minutes. Interrupted with
            Ctrl-C, the same command goes on where it stopped.
        also: Runs of the same recipe from other seeds, for the profile's stability.
        site: Only this dictionary, where the run has several; in a profile each layer of a cross-layer transcoder is one.
        metrics: Only these of the profile, such as reconstruction behaviour; left out, all.
    """
    from ..dictionaries import evaluate as measure_dictionary
    from ..report import terminal
    loaded, arguments = _load(run, device)
    if profile:
        _profile(run, loaded, arguments, data, tokens, also, site, metrics)
        return
    if also or metrics:
        raise ValueError("--also and --metrics say what is in the profile; give --profile too.")
    chosen = data or ("stdlib:test" if arguments["data"] == "stdlib" else arguments["data"])
    source, screen = inputs.first(inputs.data(chosen, loaded.net), tokens), console()
    found = {key: figures for key, figures in folder.kept(run / "figures.json").items() if key in loaded.dictionaries}
    if site and site not in loaded.dictionaries:
        raise ValueError(f"this run has no dictionary at {site}; it has {', '.join(loaded.dictionaries)}.")
    for key, dictionary in loaded.dictionaries.items() if not site else [(site, loaded.dictionaries[site])]:
        figures = measure_dictionary(loaded.net, dictionary, source, None, progress=True)
        screen.print(terminal.figures(list(figures.values()), f"{key}, {dictionary.width:,} latents, {source.name}"))
        found[key] = {name: figure.json() for name, figure in figures.items()}
        folder.figures(run, found)
    if chosen == arguments["data"] and "converted" not in loaded.config:
        say(f"It learned from {chosen} itself; for figures on text that it has not seen, give other files with --data.")
    say(f"Kept in {run / 'figures.json'}")


def _profile(run: Path, loaded: Any, arguments: dict[str, Any], data: str, tokens: str, also: tuple[Path, ...],
             site: str, metrics: tuple[str, ...]) -> None:
    """Print the profile of each dictionary of a run, or of some, and keep them as profile.json in its folder."""
    from ..counts import count_of
    from ..dictionaries.apart import apart, chosen
    from ..dictionaries.quality import profile
    from ..dictionaries.quality.keeping import joined
    from ..dictionaries.quality.profile import checksum
    from ..files import write_json
    from ..report import profile as drawn
    from ..store.making import store_of
    from ..store.profiles import keep
    from ..train import load
    net, screen = loaded.net, console()
    kept, unfinished = run / "profile.json", run / "profile.unfinished.json"
    every = apart(loaded.dictionaries)
    found = {key: one for key, one in folder.kept(kept).items()
             if key in every and one["dictionary"]["checksum"] == checksum(every[key])}
    others = [apart(load(folder, net).dictionaries) for folder in also]
    text = data or ("stdlib:test" if arguments["data"] == "stdlib" else arguments["data"])
    source, trained_on = inputs.data(text, net), None if "converted" in loaded.config else inputs.data(arguments["data"], net)
    for key, dictionary in (chosen(loaded.dictionaries, site) if site else every).items():
        lacking = next((folder for folder, other in zip(also, others, strict=True) if key not in other), None)
        if lacking is not None:
            raise ValueError(f"{lacking} has no dictionary {key}, so it cannot be compared with {run}.")
        n = source.n_tokens if tokens == "all" else count_of(tokens)
        try:
            made = profile(dictionary, net, source, trained_on=trained_on, tokens=n, progress=True, metrics=metrics or None,
                           others=[other[key] for other in others], unfinished=unfinished)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; run the same command again to go on after the last finished metric") from None
        screen.print(*drawn.tables(made), sep="\n")
        failed = drawn.failures(made)
        if failed:
            say("A dictionary that nobody trained does as well or better on: " + ", ".join(failed) + ".")
        whole = joined(found.get(key), made.json())
        if whole is None:
            say(f"Not kept: {kept} has more metrics of {key}, measured on other text or with other seeds.")
            continue
        found[key] = whole
        write_json(kept, found)
        with store_of(run, key, dictionary) as store:
            if store is not None:
                keep(store, found[key])
            say(f"Kept in {kept}{', and in its store' if store is not None else ''}")
    unfinished.unlink(missing_ok=True)


def features(run: Annotated[Path, tyro.conf.Positional], ids: Annotated[tuple[int, ...], tyro.conf.Positional] = (), /,
             site: str = "", text: str = "", n: int = 6, data: str = "", tokens: str = "200k", device: str = "cpu") -> None:
    """Show features of a run: how often they fire, which tokens they favour, and the contexts in which they fire.

    Args:
        run: The folder that `cutaway learn` wrote, such as runs/learn.
        ids: Numbers of features, such as 17 203; left out, a few that fire neither hardly ever nor nearly always.
        site: Which dictionary, where the run has several, such as blocks.2.
        text: Instead, list the strongest features at each token of this text.
        n: How many contexts, and how many features when none are named.
        data: Where to look for contexts; left out, what the run learned from.
        tokens: In how many tokens to look, such as 200k or all.
        device: Where the network runs, such as cpu or cuda.
    """
    from ..demo import described
    from ..dictionaries import watch
    from ..report import terminal
    if n < 1:
        raise ValueError(f"at least one context is shown; found --n {n}.")
    loaded, arguments = _load(run, device)
    loaded = only(loaded, site)
    source = inputs.first(inputs.data(data or arguments["data"], loaded.net), tokens)
    found, screen = watch(loaded.net, loaded.dictionary, source, None, progress=True), console()
    if text:
        inputs_of_text = loaded.net.tokens(text)["input_ids"][0]
        for token, active in zip(inputs_of_text, found.active(text), strict=True):
            said = "  ".join(f"{latent}:{value:.2f}" for latent, value in active)
            say(f"{loaded.net.tokenizer.decode([int(token)])!r:>16}  {said}")
        return
    shown = [found[i] for i in ids] or found.interesting(n)
    for feature in shown:
        screen.print(terminal.feature(described(feature), screen.width, contexts=n))
    if not shown:
        say(f"No feature fires at least 20 times and at no more than 2% of these {found.n_tokens:,} tokens; name some by "
            "their numbers, or look in more --tokens.")
