"""The paper's parts by hand-computed numbers: search, signs, loss, temperature, gate, window, resignation."""

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from replications.alphago_zero import opponents, records, train
from replications.alphago_zero.games import Game, make_game, winner
from replications.alphago_zero.plumbing import SGD, Log, for_search
from replications.alphago_zero.trees import Trees

TINY = dict(
    game="tic_tac_toe", board=3, history=2, blocks=1, filters=4, value_units=4, simulations=8, test_simulations=8,
    noise_alpha=1.0, temperature_moves=4, games=24, games_per_checkpoint=8, games_at_once=4, window=12, batch_size=8,
    updates_per_checkpoint=2, gate_games=4, opening_moves=2,
)  # fmt: skip
ONE = np.zeros(1, int)


class Flat(nn.Module):
    """Priors that are all the same and a value of `value` for who is to move."""

    def __init__(self, actions: int = 9, value: float = 0.0):
        super().__init__()
        self.actions, self.value = actions, value

    def forward(self, x):
        return torch.zeros(len(x), self.actions), torch.full((len(x),), self.value)


class Fixed(nn.Module):
    """Priors and values that are some function of the planes, the same for all symmetries being off."""

    def __init__(self, planes: int, size: int, actions: int):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.w = torch.randn(planes * size * size, actions + 1, generator=rng)

    def forward(self, x):
        y = x.flatten(1) @ self.w
        return y[:, 1:], torch.tanh(y[:, 0])


def config(**changes) -> train.Config:
    return train.Config(**(TINY | changes))


def searched(network, line=(), simulations=50, c=None, game=None, games=1):
    c = c or config(symmetries=False)
    game = game or make_game(c)
    trees = Trees(game, games, c.history, 4)
    for g in range(games):
        trees.plant(g, *game.replay(line))
    visits = train.search(trees, np.arange(games), network, c, np.random.default_rng(0), simulations)
    return trees, visits


def test_puct_picks_the_second_move():
    """P = [.5, .5], N = [3, 0], Q = [.1, 0], c = 1: U = [.2165, .8660]."""
    game = Game("tic_tac_toe")
    trees = Trees(game, 1, 2, 8)
    trees.plant(0, *game.replay([0, 1, 2, 3, 4, 5, 7]))  # 6 and 8 are free
    trees.prior[0, 0] = -np.inf
    trees.prior[0, 0, [6, 8]] = 0.5
    trees.visits[0, 0, 6], trees.total[0, 0, 6] = 3, 0.3
    train.simulate(trees, Flat(), ONE, 1.0, ONE)
    assert trees.visits[0, 0, [6, 8]].tolist() == [3, 1]
    trees.visits[0, 0, 8], trees.total[0, 0, 8], trees.child[0, 0, 8] = 0, 0, -1
    trees.total[0, 0, 6] = 3 * 0.75  # .75 + .2165 > .8660
    train.simulate(trees, Flat(), ONE, 1.0, ONE)
    assert trees.visits[0, 0, [6, 8]].tolist() == [4, 0]


def test_the_first_visit_goes_to_the_largest_prior():
    """At a node without visits U is 0 for all; the sum over visits is that of the children, one less than the simulations."""
    game = Game("tic_tac_toe")
    trees = Trees(game, 1, 2, 8)
    trees.prior[0, 0] = 0.1
    trees.prior[0, 0, 5] = 0.2
    train.simulate(trees, Flat(), ONE, 1.0, ONE)
    assert trees.visits[0, 0].argmax() == 5
    assert searched(Flat(), simulations=30)[1].sum() == 29


def test_a_win_for_who_moves_counts_as_a_win_for_that_move():
    """X to move can win at 2. The search finds it for X; and O, to move, blocks it."""
    assert searched(Flat(), [0, 3, 1, 4])[1][0].argmax() == 2
    assert searched(Flat(), [0, 3, 1], 200)[1][0].argmax() == 2


@pytest.mark.parametrize("line", [[0, 3, 1, 4], [8, 0, 7, 1, 5]])
def test_true_results_have_the_sign_of_who_won(line):
    """The winning move's Q is +1 for the one who makes it, Black or White."""
    trees, visits = searched(Flat(), line, 60)
    win = visits[0].argmax()
    assert winner(trees.game.replay([*line, win])[0]) == 1 - 2 * (len(line) % 2)
    assert trees.total[0, 0, win] == trees.visits[0, 0, win]


def test_a_networks_value_is_that_of_who_is_to_move_and_changes_sign_on_the_way_up():
    """Every position is worth +.5 to who is to move there: so each move from the root is worth -.5, each reply +.5."""
    trees, visits = searched(Flat(value=0.5), simulations=10)  # all nine children, once each
    assert visits[0].tolist() == [1] * 9
    assert trees.total[0, 0].tolist() == [-0.5] * 9
    trees, visits = searched(Flat(value=0.5), simulations=11)
    assert sorted(visits[0]) == [1] * 8 + [2]
    assert trees.total[0, 0][visits[0] == 2].tolist() == [0]  # -.5 of the child, +.5 of the grandchild


def test_illegal_moves_have_no_mass_and_are_never_visited():
    trees, visits = searched(Flat(), [4, 0])
    assert visits[0, [0, 4]].tolist() == [0, 0]
    assert np.isneginf(trees.prior[0, 0, [0, 4]]).all()
    legal = trees.prior[0, 0][np.isfinite(trees.prior[0, 0])]
    assert legal.tolist() == pytest.approx([1 / 7] * 7)


def test_a_kept_subtree_is_what_a_fresh_search_of_its_root_gives():
    """The child of the move that is played was visited n times; a fresh search of n simulations counts the same everywhere."""
    c = config(symmetries=False, game="go", komi=8.5, history=3)
    game = make_game(c)
    network = Fixed(7, 3, game.actions)
    trees, visits = searched(network, (), 300, c, game)
    action = int(visits[0].argmax())
    n = int(visits[0, action])
    assert n > 30
    trees.advance(0, action)
    fresh, _ = searched(network, (action,), n, c, game)
    count = len(fresh.states[0])
    assert len(trees.states[0]) == count
    for name in ("visits", "prior", "child", "history", "colour", "over", "result"):
        assert np.array_equal(getattr(trees, name)[0, :count], getattr(fresh, name)[0, :count]), name
    for name in ("parent", "action"):
        assert np.array_equal(getattr(trees, name)[0, 1:count], getattr(fresh, name)[0, 1:count]), name
    assert np.allclose(trees.total[0, :count], fresh.total[0, :count], atol=1e-5)
    assert [str(s) for s in trees.states[0]] == [str(s) for s in fresh.states[0]]


def test_games_side_by_side_do_not_touch_each_other():
    c = config(symmetries=False, game="go", komi=8.5)
    game = make_game(c)
    network = Fixed(5, 3, game.actions)
    alone, _ = searched(network, (4, 0), 40, c, game)
    trees = Trees(game, 3, c.history, 4)
    for g, line in enumerate([(), (4, 0), (4,)]):
        trees.plant(g, *game.replay(line))
    train.search(trees, np.arange(3), network, c, np.random.default_rng(0), 40)
    assert np.array_equal(trees.visits[1, :40], alone.visits[0, :40])


def test_a_trees_history_is_that_of_the_game():
    c = config(symmetries=False, game="go", komi=8.5, history=4)
    trees, _ = searched(Flat(10), (4, 0), 60, c)
    for node in range(1, len(trees.states[0])):
        boards = trees.game.replay(trees.states[0][node].history())[1][::-1][:4]
        assert trees.history[0, node, : len(boards)].tolist() == [b.tolist() for b in boards]


def test_noise_is_at_the_root_alone_and_the_mixture_is_the_papers():
    c = config(symmetries=False, noise_weight=0.25)
    trees = Trees(make_game(c), 1, c.history, 4)
    train.search(trees, ONE, Flat(), c, np.random.default_rng(0), 30, noise=True)
    root = trees.prior[0, 0]
    assert root.sum() == pytest.approx(1, abs=1e-5)
    assert root.min() >= 0.75 / 9 - 1e-6
    assert root.std() > 0.01
    inner = trees.prior[0, 1 : len(trees.states[0])]
    inner = inner[np.isfinite(inner)]
    assert len({round(float(p), 6) for p in inner}) <= 8  # 1/8, 1/7, ...: no noise


def test_symmetries_of_the_leaf_are_undone_on_the_moves():
    """With a network that likes the cells of a board's own symmetric kind, every symmetry gives the same priors."""
    game, c = Game("go", 3, 8.5), config(game="go", komi=8.5)
    torch.manual_seed(0)
    network = for_search(train.Network(c, game))
    history = game.replay([0, 5])[1][:0:-1]
    history = np.stack([np.stack(history)] * 8)
    turns, colours, legal = np.arange(8), np.ones(8, np.int8), np.ones((8, 10), bool)
    turned, _ = train.evaluate(network, game, history, colours, legal, turns)
    for s in range(8):  # the network on the turned board, by hand
        board = game.turn(history[:1], np.array([s]))
        plain, _ = train.evaluate(network, game, board, colours[:1], legal[:1], ONE)
        back = np.array([plain[0][np.flatnonzero(game.to_transformed[s] == a)[0]] for a in range(10)])
        assert turned[s] == pytest.approx(back, abs=1e-5)


def test_loss_is_equation_1():
    """z = 1, v = .5; pi = [.5, .5] against p = [.5, .5]; theta = [3, 4], c = .01: .25 + ln 2 + .25."""
    found = train.loss(
        torch.zeros(1, 2), torch.tensor([0.5]), torch.tensor([[0.5, 0.5]]), torch.tensor([1.0]),
        [torch.tensor([3.0, 4.0])], 0.01,
    )  # fmt: skip
    assert found.item() == pytest.approx(0.25 + np.log(2) + 0.25, abs=1e-6)


def test_a_position_learned_from_is_turned_with_its_moves(monkeypatch):
    """One stone and a pi that is all on its cell: under each of the eight symmetries they stay together."""
    game, seen = Game("go", 3, 8.5), {}
    network = nn.Linear(1, 1)

    def forward(x):
        seen["boards"] = x[:, 0].flatten(1)
        return torch.zeros(len(x), 10), network(torch.zeros(len(x), 1)).squeeze(1)

    def loss(logits, values, policies, *_):
        seen["policies"] = policies
        return values.sum()

    monkeypatch.setattr(train, "loss", loss)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return forward(x)

    history = np.zeros((8, 1, 9), np.int8)
    history[:, 0, 1] = 1
    batch = train.Positions(
        history, np.ones(8, np.int8), np.eye(10, dtype=np.float32)[[1] * 8], np.ones(8, np.float32)
    )
    outer = Network()
    train.update(outer, SGD(outer, 0.9), game, batch, np.arange(8), 0.0, 0.1)
    cells = seen["boards"].argmax(dim=1)
    assert len(set(cells.tolist())) == 4  # an edge has four places
    assert torch.equal(seen["policies"].argmax(dim=1), cells)


def test_learning_rate_falls_at_400_and_600_of_700():
    c = config(
        games=700, games_per_checkpoint=1, games_at_once=1, updates_per_checkpoint=1000, learning_rate=0.01
    )
    rates = [train.learning_rate(u, c) for u in (0, 399_999, 400_000, 599_999, 600_000, 699_999)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_momentum():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    optimiser = SGD(layer, 0.9)
    for _ in range(2):
        optimiser.gradient.fill_(1.0)
        optimiser.step(0.1)
    assert layer.weight.item() == pytest.approx(1 - 0.1 - 0.19)


def test_temperature():
    visits = np.array([[1.0, 3.0], [1.0, 3.0]], np.float32)
    assert train.move_probabilities(visits, np.array([True, False])).tolist() == [[0.25, 0.75], [0, 1]]
    drawn = train.draw(np.tile([[0.0, 0.25, 0.75, 0.0]], (20_000, 1)), np.random.default_rng(0))
    assert np.bincount(drawn, minlength=4) / 20_000 == pytest.approx([0, 0.25, 0.75, 0], abs=0.015)


def test_the_gate_wants_more_than_55_percent():
    def results(wins: int, draws: int = 0) -> np.ndarray:
        return np.array([1] * wins + [0] * draws + [-1] * (40 - wins - draws))

    assert not train.is_better(results(22), 0.55)
    assert train.is_better(results(23), 0.55)
    assert not train.is_better(results(20, 4), 0.55)  # draws count half
    assert train.is_better(results(20, 5), 0.55)
    assert not train.is_better(np.array([1] * 220 + [-1] * 180), 0.55)


def test_folded_normalisation_is_the_same_network():
    c = config(residual=True)
    network = train.Network(c, make_game(c))
    x = torch.randn(16, 5, 3, 3)
    for _ in range(10):
        network(x)
    player = for_search(network)
    assert len(list(player.buffers())) == 0
    for a, b in zip(network.eval()(x), player(x), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    network.train()(x * 3 + 1)  # statistics of the learner go on, the player's do not
    assert not torch.allclose(network.eval()(x)[1], player(x)[1], atol=1e-5)


def test_networks_of_figure_4():
    game = Game("go", 3, 8.5)
    sizes = {}
    for dual in (True, False):
        for residual in (True, False):
            network = train.Network(config(dual=dual, residual=residual), game)
            sizes[dual, residual] = sum(p.numel() for p in network.parameters())
            assert network(torch.zeros(2, 5, 3, 3))[0].shape == (2, 10)
    assert sizes[True, True] == sizes[True, False] < sizes[False, True] == sizes[False, False]
    block = train.Block(4, residual=True).eval()
    nn.init.zeros_(block.second[0].weight)
    x = torch.rand(1, 4, 3, 3)
    assert torch.equal(block(x), x)  # the skip
    block.residual = False
    assert (block(x) == 0).all()


def test_a_record_becomes_positions_of_who_is_to_move():
    """X wins: z = 1, -1, 1, -1, 1; the newest board comes first, zeros before the game began."""
    game = Game("tic_tac_toe")
    line = [0, 3, 1, 4, 2]
    policies = np.eye(9)[line]
    record = records.Record(0, np.array(line), policies, np.zeros(5), 1, np.zeros(2), False, True)
    found = records.positions_of(record, game, 2)
    assert found.outcomes.tolist() == [1, -1, 1, -1, 1]
    assert found.colours.tolist() == [1, -1, 1, -1, 1]
    assert found.history[0].tolist() == [[0] * 9, [0] * 9]
    assert found.history[2].tolist() == [[1, 0, 0, -1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert (found.policies == policies).all()


def test_the_window_is_in_games_and_draws_positions_uniformly():
    game = Game("tic_tac_toe")

    def record(line):
        return records.Record(
            0, np.array(line), np.eye(9)[line], np.zeros(len(line)), 1, np.zeros(2), False, True
        )

    window = records.Window(game, 2, 1)
    window.add([record([8])])
    window.add([record([0, 3, 1, 4, 2]), record([4])])
    assert window.lengths == [5, 1]
    assert len(window.positions.colours) == 6
    drawn = window.sample(np.random.default_rng(0), 6_000).policies.argmax(axis=1)
    assert (drawn == 8).sum() == 0
    assert (drawn == 4).sum() == pytest.approx(
        2_000, abs=150
    )  # the fourth move of one game, the only one of the other


def test_resignation_throws_away_at_most_a_twentieth_of_games_that_were_not_lost():
    results = np.array([1] * 60 + [0] * 40 + [-1] * 10)
    lowest = np.full((110, 2), -0.5)
    lowest[60:, 1] = -0.2
    lowest[:100, 0] = np.linspace(-0.99, 0.0, 100)
    below = records.resignation_values(results, lowest, 0.05)
    assert (lowest[:100, 0] < below[0]).mean() <= 0.05
    assert below[0] == pytest.approx(-0.95, abs=0.011)
    assert below[1] == -0.2  # draws count as not lost: White's games of the last two kinds
    assert records.resignation_values(results[:60], lowest[:60], 0.05)[1] == -np.inf  # White lost them all


def test_a_player_who_resigns_has_lost():
    c = config()
    game = make_game(c)
    torch.manual_seed(0)
    below = torch.tensor([2.0, -np.inf], dtype=torch.float64)  # Black resigns at once, where it may
    play = train.SelfPlay(config(played_out=0.0), for_search(train.Network(c, game)), below, 1, 0)
    ended = play.work()
    assert [(r.result, r.resigned, len(r.actions)) for r in ended] == [(-1, True, 1)] * 4
    play = train.SelfPlay(config(played_out=1.0), for_search(train.Network(c, game)), below, 1, 0)
    assert play.work() == []


def test_self_plays_targets_are_what_was_played_from():
    """pi is the visits' share at first and all on the played move later; the result is the true one."""
    c = config(temperature_moves=3, played_out=1.0)
    torch.manual_seed(0)
    play = train.SelfPlay(c, for_search(train.Network(c, make_game(c))), torch.full((2,), -9.0), 1, 0)
    ended = []
    while play.wants(8):
        ended += play.work()
    assert len(ended) >= 8
    for record in ended:
        assert record.policies.sum(axis=1) == pytest.approx(np.ones(len(record.actions)))
        late = record.policies[3:]
        assert (late[np.arange(len(late)), record.actions[3:]] == 1).all()
        assert ((record.policies[:3] > 0).sum(axis=1) > 1).any()
        state, _ = play.trees.game.replay(record.actions)
        assert state.is_terminal()
        assert record.result == winner(state)


def test_elo_of_two_is_the_logistic():
    """Of 10,000 games 75 % won: 400 log10(3) = 190.8; three who beat each other evenly are equal."""
    points = np.array([[0, 2_500.0], [7_500.0, 0]])
    found = opponents.elo(points, np.array([[0, 10_000.0], [10_000.0, 0]]))
    assert found[1] - found[0] == pytest.approx(190.8, abs=1)
    assert opponents.elo(np.full((3, 3), 5.0), None) == pytest.approx([0, 0, 0], abs=1e-3)
    assert np.isfinite(opponents.elo(np.array([[0, 0.0], [20.0, 0]]), None)).all()


def test_a_contest_alternates_colours_and_counts_for_the_first_player():
    class First:
        """Plays the first legal move; wins as X: 0, 2, 4, 6 against 1, 3, 5."""

        def start(self, game, games):
            self.states = [game.start() for _ in range(games)]

        def choose(self, g):
            return np.array([self.states[i].legal_actions()[0] for i in g])

        def played(self, g, action):
            self.states[g].apply_action(action)

    game = Game("tic_tac_toe")
    results, moves = opponents.contest(game, [First(), First()], 4)
    assert moves == [[0, 1, 2, 3, 4, 5, 6]] * 4
    assert results.tolist() == [1, -1, 1, -1]
    assert opponents.contest(game, [First(), First()], 2, alternate=False)[0].tolist() == [1, 1]


def test_the_move_that_repeats_a_board_ends_the_game_and_is_told_to_nobody():
    """GNU Go refuses such a move; here it is a draw."""
    line, told = [5, 3, 1, 4, 0, 2, 1], []

    class Scripted:
        def start(self, game, games):
            pass

        def choose(self, g):
            return np.array([line[len(told)]])

        def played(self, g, action):
            told.append(action)

    scripted = Scripted()
    results, moves = opponents.contest(Game("go", 3, 8.5), [scripted, scripted], 1)
    assert (results.tolist(), moves, told) == ([0], [line], line[:-1])


def test_the_search_never_loses_tic_tac_toe_to_random_play():
    """Even without a trained network, 200 simulations do not."""

    class Anybody:
        def start(self, game, games):
            self.states, self.rng = [game.start() for _ in range(games)], np.random.default_rng(0)

        def choose(self, g):
            return np.array([self.rng.choice(self.states[i].legal_actions()) for i in g])

        def played(self, g, action):
            self.states[g].apply_action(action)

    c = config(history=2)
    player = train.Player(c, Flat(), 200, np.random.default_rng(0))
    results, _ = opponents.contest(make_game(c), [player, Anybody()], 10)
    assert results.min() >= 0


@pytest.mark.parametrize(
    "name", ["simulations", "test_simulations", "games", "window", "batch_size", "workers"]
)
def test_numbers_below_1_are_one_sentence(name):
    with pytest.raises(UserError, match=f"{name} 0: at least 1"):
        config(**{name: 0})


def test_games_that_may_all_end_at_once_must_fit_into_a_checkpoint():
    with pytest.raises(UserError, match="games_at_once 4 in 3 workers are 12 games"):
        config(workers=3)


def test_self_play_searches_with_noise_and_a_player_without(monkeypatch):
    real, seen = train.search, []

    def search(*arguments, noise=False):
        seen.append(noise)
        return real(*arguments, noise=noise)

    monkeypatch.setattr(train, "search", search)
    c = config(simulations=2)
    network, below = for_search(train.Network(c, make_game(c))), torch.full((2,), -9.0)
    train.SelfPlay(c, network, below, 1, 0).work()
    player = train.Player(c, network, 2, np.random.default_rng(0))
    player.start(make_game(c), 1)
    player.choose(ONE)
    assert seen == [True, False]


def test_self_play_draws_by_the_seed_of_the_run_and_the_worker():
    c = config()
    network, below = for_search(train.Network(c, make_game(c))), torch.full((2,), -9.0)
    draws = {train.SelfPlay(c, network, below, seed, i).rng.random() for seed in (1, 2) for i in (0, 1)}
    assert len(draws) == 4


def test_nobody_resigns_whose_best_move_is_worth_more(monkeypatch):
    c = config(played_out=0.0, simulations=2)
    network, below = for_search(train.Network(c, make_game(c))), torch.full((2,), -0.5)
    play = train.SelfPlay(c, network, below, 1, 0)
    monkeypatch.setattr(
        play.trees,
        "values",
        lambda games, actions=None: np.full(len(games), -0.9 if actions is None else 0.5),
    )
    assert play.work() == []
    assert [len(moves) for moves in play.moves] == [1] * 4


def test_the_log_counts_blacks_share_and_keeps_the_games_without_resignation():
    def record(result, could_resign):
        return records.Record(
            worker=0, actions=np.array([4]), policies=np.full((1, 9), 1 / 9, np.float32), values=np.zeros(1), result=result,
            lowest=np.array([-0.1, -0.2]), resigned=False, could_resign=could_resign,
        )  # fmt: skip

    log, games = Log(1), [record(1, True), record(1, False), record(-1, True), record(0, True)]
    log.add_games(games)
    results, lowest = log.played_out()
    assert (results.tolist(), lowest.tolist()) == ([1.0], [[-0.1, -0.2]])
    log.add(4, games, [1.0], None, 0.0)
    assert log.rows["black_share"] == [0.625]
