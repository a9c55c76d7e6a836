"""The games against OpenSpiel, the solved values and the printed symmetries."""

import numpy as np
import pyspiel
import pytest

from common.errors import UserError
from replications.alphago_zero.games import Game, planes, sgf, winner
from replications.alphago_zero.measures import not_lost

COLUMNS = "abcdefghj"


def actions_of(line: str, size: int) -> list[int]:
    return [
        size**2 if name == "pass" else COLUMNS.index(name[0]) + size * (int(name[1:]) - 1)
        for name in line.split()
    ]


@pytest.mark.parametrize(
    ("board", "komi", "words"),
    [(1, 0.5, "2 to 9 lines"), (10, 0.5, "2 to 9 lines"), (5, 25, "24.5 or 25.5"), (5, 60.5, "-25 to 25"), (3, 9, "draws")],
)  # fmt: skip
def test_a_board_or_komi_that_cannot_be_is_one_sentence(board, komi, words):
    with pytest.raises(UserError, match=words) as raised:
        Game("go", board, komi)
    assert "\n" not in str(raised.value)


def test_scoring_around_a_komi_of_the_whole_board():
    """5x5, all Black: 25 points, so komi 24.5 is won and 25.5 lost."""
    for komi, result in ((24.5, 1), (25.5, -1)):
        game = Game("go", 5, komi)
        state, _ = game.replay([12, 25, 25])
        assert state.is_terminal()
        assert winner(state) == result


@pytest.mark.parametrize(
    ("size", "komi", "line"),
    [
        (3, 8.5, "b2 a1 b1 a2 a3 a2 a1 c2 c1 c3 b3 c2 c3 pass pass"),
        (4, 0.5, "b2 c3 c2 b3 a2 d2 a3 b1 c1 b4 d1 d3 c4 d4 a1 a4 c4 d3 d2 b3 c3 a4 pass pass"),
    ],
)
def test_solved_lines_are_won_by_black(size, komi, line):
    game = Game("go", size, komi)
    actions = actions_of(line, size)
    for ply, action in enumerate(actions):
        assert game.action_name(action) == line.split()[ply]
        assert action in game.replay(actions[:ply])[0].legal_actions()
    state, boards = game.replay(actions)
    assert state.is_terminal()
    assert winner(state) == 1
    assert len(boards) == len(actions) + 1


def test_the_line_from_the_centre_of_5x5_is_legal():
    game = Game("go", 5, 24.5, 100)
    line = [12, 7, 6, 11, 8, 17, 13, 5, 1, 21, 15, 18, 16]
    for ply, action in enumerate(line):
        assert action in game.replay(line[:ply])[0].legal_actions()


@pytest.mark.parametrize("line", [[5, 3, 1, 4, 0, 2, 1], [8, 1, 7, 4, 3, 9, 0, 6, 3]])
def test_a_board_that_was_there_before_ends_the_game_as_a_draw(line):
    game = Game("go", 3, 8.5)
    state, boards = game.replay(line)
    assert state.is_terminal()
    assert winner(state) == 0
    assert any((boards[-1] == board).all() for board in boards[:-1])


def test_longest_game():
    assert Game("go", 3, 8.5).longest == 18
    assert Game("go", 5, 24.5, 100).rules.max_game_length() == 100


def test_boards_are_those_that_openspiel_prints():
    game, rng = Game("go", 5, 0.5), np.random.default_rng(0)
    state = game.start()
    for _ in range(20):
        state.apply_action(int(rng.choice(state.legal_actions()[:-1])))
        rows = [line.split()[-1] for line in str(state).splitlines() if line.strip()[:1].isdigit()]
        printed = [[{"X": 1, "O": -1, "+": 0}[c] for c in row] for row in rows[::-1]]
        assert (game.board(state).reshape(5, 5) == printed).all()


def test_x_is_black_in_tic_tac_toe():
    game = Game("tic_tac_toe")
    assert game.board(game.replay([4, 0])[0]).tolist() == [-1, 0, 0, 0, 1, 0, 0, 0, 0]


def test_planes_are_from_the_side_of_who_is_to_move():
    """Hand-made: Black at 0 then White at 3 on 2x2; White is to move at t = 1, Black at t = 2."""
    game = Game("go", 2, 0.5)
    _, boards = game.replay([0, 3])
    history = np.stack(
        [np.stack([boards[1], boards[0], boards[0]]), np.stack([boards[2], boards[1], boards[0]])]
    )
    found = planes(history, np.array([-1, 1]), 2).reshape(2, 7, 4)
    one, four, none, every = [1, 0, 0, 0], [0, 0, 0, 1], [0] * 4, [1] * 4
    assert found[0].tolist() == [
        none,
        one,
        none,
        none,
        none,
        none,
        none,
    ]  # X_t, Y_t, ...: White has no stone; C = 0
    assert found[1].tolist() == [one, four, one, none, none, none, every]


def test_eight_symmetries_map_back_and_leave_the_pass_alone():
    game = Game("go", 5, 24.5)
    values = np.random.default_rng(0).random((8, 26))
    turned = game.turn(values, np.arange(8))
    assert len({tuple(row) for row in game.turn(np.tile(values[0], (8, 1)), np.arange(8))}) == 8
    assert (turned[:, 25] == values[:, 25]).all()
    assert (np.take_along_axis(turned, game.to_original, axis=1) == values).all()


def test_a_turned_position_and_its_turned_moves_belong_together():
    """Playing a turned line gives the turned board."""
    game = Game("go", 5, 24.5)
    line = [12, 7, 6, 11, 8, 17]
    board = game.replay(line)[1][-1]
    for s in range(8):
        turned = [int(game.to_original[s, action]) for action in line]
        assert (game.replay(turned)[1][-1] == game.turn(board[None], np.array([s]))[0]).all()


def test_tic_tac_toe_is_solved_and_counted():
    """4,520 states that are not over; 632 are lost, 3,888 not; all nine openings draw."""
    lines, values = not_lost()
    assert len(lines) == 3_888
    assert [values[(a,)] for a in range(9)] == [0] * 9
    won = [max(values[(*line, a)] for a in range(9) if (*line, a) in values) for line in lines]
    assert (won.count(1), won.count(0)) == (2_836, 1_052)
    assert [values[(0, a)] for a in range(1, 9)] == [
        -1,
        -1,
        -1,
        0,
        -1,
        -1,
        -1,
        -1,
    ]  # after a corner only the centre
    assert sorted(a for a in range(9) if values.get((1, a)) == 0) == [0, 2, 4, 7]  # after an edge


def test_sgf():
    """SGF counts rows from the top; d1 is "de" on 5x5."""
    game = Game("go", 5, 24.5)
    text = sgf(game, [12, 7, 25, 3], 1, "a", "b", ["first"])
    assert "SZ[5]KM[24.5]" in text
    assert text.endswith(";B[cc]C[first];W[cd];B[];W[de])\n")


def test_sgf_is_read_back_by_openspiel():
    game, line = Game("go", 5, 24.5), [12, 7, 24, 3, 17]
    ((_, state),) = pyspiel.go.load_games_from_sgf_string(sgf(game, line, 1, "a", "b"))
    assert state.history() == [
        int(game.to_original[5, action]) for action in line
    ]  # it takes rows from the bottom


def test_every_state_of_tic_tac_toe():
    """5,478 states: by ply 1 9 72 252 756 1260 1520 1140 390 78; X wins 626 of those that are over, O 316, 16 are draws."""
    game, seen, level = Game("tic_tac_toe"), {}, [Game("tic_tac_toe").start()]
    plies, ends = [], []
    while level:
        found = {}
        for state in level:
            found.setdefault(game.board(state).tobytes(), state)
        plies.append(len(found))
        ends += [winner(state) for state in found.values() if state.is_terminal()]
        seen |= found
        level = [s.child(a) for s in found.values() if not s.is_terminal() for a in s.legal_actions()]
    assert plies == [1, 9, 72, 252, 756, 1260, 1520, 1140, 390, 78]
    assert len(seen) == 5_478
    assert (ends.count(1), ends.count(-1), ends.count(0)) == (626, 316, 16)


def random_games(game: Game, count: int, seed: int) -> np.ndarray:
    rng, results = np.random.default_rng(seed), []
    for _ in range(count):
        state = game.start()
        while not state.is_terminal():
            legal = state.legal_actions()
            state.apply_action(legal[rng.integers(len(legal))])
        results.append(winner(state))
    return np.array(results)


@pytest.mark.parametrize(
    ("game", "black", "white"),
    [
        (("tic_tac_toe",), 0.585, 0.288),
        (("go", 3, 8.5), 0.117, None),
        (("go", 3, 0.5), 0.458, None),
        (("go", 5, 24.5), 0.026, None),
    ],
)
def test_random_play_wins_as_often_as_measured(game, black, white):
    """2,000 games each were measured; so both have an error, of at most 1.6 %."""
    results = random_games(Game(*game), 1_000, 1)
    assert (results == 1).mean() == pytest.approx(black, abs=0.05 if black > 0.1 else 0.02)
    if white:
        assert (results == -1).mean() == pytest.approx(white, abs=0.05)


@pytest.mark.parametrize(("komi", "value"), [(-1.5, 1), (-0.5, 0), (0.5, 0), (1.5, -1)])
def test_2x2_is_a_draw_by_repetition_around_komi_0(komi, value):
    """Exhaustive on OpenSpiel's states, with the longest game of 8: +1 for komi up to -1.5, 0 between, -1 from 1.5 on."""

    def best(state, alpha, beta):
        """For Black, by alpha-beta."""
        if state.is_terminal():
            return winner(state)
        black = state.move_number() % 2 == 0
        for action in state.legal_actions():
            found = best(state.child(action), alpha, beta)
            alpha, beta = (max(alpha, found), beta) if black else (alpha, min(beta, found))
            if alpha >= beta:
                break
        return alpha if black else beta

    assert best(Game("go", 2, komi).start(), -1, 1) == value
