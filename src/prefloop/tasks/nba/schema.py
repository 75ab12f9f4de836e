"""The Basketball-Reference-style schema: five tables, three views, their indexes (docs/task-nba.md)."""

from __future__ import annotations

import sqlite3

_GAMES = """
CREATE TABLE games (
  game_id TEXT PRIMARY KEY, game_date TEXT NOT NULL, season INTEGER NOT NULL,
  home_team TEXT NOT NULL, away_team TEXT NOT NULL, home_team_name TEXT, away_team_name TEXT,
  home_score INTEGER NOT NULL, away_score INTEGER NOT NULL, game_type TEXT, playoff_round TEXT,
  location TEXT, city TEXT, attendance INTEGER, officials TEXT, duration TEXT,
  num_overtime_periods INTEGER DEFAULT 0, source_url TEXT, scraped_at TEXT,
  has_basic_stats BOOLEAN DEFAULT 0, has_advanced_stats BOOLEAN DEFAULT 0, has_four_factors BOOLEAN DEFAULT 0,
  has_play_by_play BOOLEAN DEFAULT 0, data_quality_score INTEGER DEFAULT 0, notes TEXT,
  created_at TEXT, updated_at TEXT
);"""

_TEAM_BOX = """
CREATE TABLE team_box_scores (
  id INTEGER PRIMARY KEY, game_id TEXT NOT NULL REFERENCES games(game_id), team TEXT NOT NULL,
  is_home BOOLEAN NOT NULL, points INTEGER, field_goals_made INTEGER, field_goals_attempted INTEGER,
  field_goal_pct REAL, three_pointers_made INTEGER, three_pointers_attempted INTEGER, three_point_pct REAL,
  free_throws_made INTEGER, free_throws_attempted INTEGER, free_throw_pct REAL,
  offensive_rebounds INTEGER, defensive_rebounds INTEGER, total_rebounds INTEGER, assists INTEGER,
  steals INTEGER, blocks INTEGER, turnovers INTEGER, personal_fouls INTEGER,
  true_shooting_pct REAL, effective_fg_pct REAL, total_rebounding_pct REAL, assist_pct REAL, steal_pct REAL,
  block_pct REAL, turnover_pct REAL, ff_effective_fg_pct REAL, ff_turnover_pct REAL,
  ff_offensive_rebound_pct REAL, ff_free_throw_rate REAL, pace REAL, offensive_rating REAL,
  defensive_rating REAL, net_rating REAL, created_at TEXT
);"""

_PLAYER_BOX = """
CREATE TABLE player_box_scores (
  id INTEGER PRIMARY KEY, game_id TEXT NOT NULL REFERENCES games(game_id), player_name TEXT NOT NULL,
  player_slug TEXT, team TEXT NOT NULL, position TEXT, is_starter BOOLEAN DEFAULT 0, minutes_played TEXT,
  minutes_decimal REAL, field_goals_made INTEGER, field_goals_attempted INTEGER, field_goal_pct REAL,
  three_pointers_made INTEGER, three_pointers_attempted INTEGER, three_point_pct REAL,
  free_throws_made INTEGER, free_throws_attempted INTEGER, free_throw_pct REAL,
  offensive_rebounds INTEGER, defensive_rebounds INTEGER, total_rebounds INTEGER, assists INTEGER,
  steals INTEGER, blocks INTEGER, turnovers INTEGER, personal_fouls INTEGER, points INTEGER NOT NULL,
  plus_minus INTEGER, true_shooting_pct REAL, effective_fg_pct REAL, usage_rate REAL, offensive_rating REAL,
  defensive_rating REAL, game_score REAL, box_plus_minus REAL, double_double BOOLEAN, triple_double BOOLEAN,
  did_not_play BOOLEAN DEFAULT 0, dnp_reason TEXT, created_at TEXT
);"""

_EVENTS = """
CREATE TABLE game_play_by_play (
  id INTEGER PRIMARY KEY, game_id TEXT NOT NULL REFERENCES games(game_id), event_number INTEGER,
  quarter INTEGER NOT NULL, time_remaining TEXT, time_elapsed_seconds INTEGER, event_type TEXT, description TEXT,
  primary_player TEXT, secondary_player TEXT, offensive_team TEXT, defensive_team TEXT,
  home_score INTEGER, away_score INTEGER, score_diff INTEGER, shot_made BOOLEAN, shot_type TEXT,
  shot_distance INTEGER, shot_x INTEGER, shot_y INTEGER, created_at TEXT
);"""

_PROGRESS = """
CREATE TABLE scraping_progress (
  game_id TEXT PRIMARY KEY, game_date TEXT NOT NULL, season INTEGER NOT NULL, home_team TEXT, away_team TEXT,
  status TEXT NOT NULL DEFAULT 'pending', priority INTEGER DEFAULT 5, attempts INTEGER DEFAULT 0,
  max_attempts INTEGER DEFAULT 3, last_attempt_at TEXT, last_error TEXT, scraped_at TEXT,
  has_basic_stats BOOLEAN DEFAULT 0, has_advanced_stats BOOLEAN DEFAULT 0, has_four_factors BOOLEAN DEFAULT 0,
  has_play_by_play BOOLEAN DEFAULT 0, created_at TEXT, updated_at TEXT
);"""

_VIEWS = """
CREATE VIEW complete_games AS
  SELECT g.*, p.status, p.has_basic_stats, p.has_advanced_stats, p.has_play_by_play
  FROM games g JOIN scraping_progress p ON p.game_id = g.game_id WHERE p.status = 'scraped';
CREATE VIEW scraping_progress_by_season AS
  SELECT season, COUNT(*) AS total_games, SUM(status = 'scraped') AS scraped, SUM(status = 'pending') AS pending,
    SUM(status = 'failed') AS failed, ROUND(100.0 * SUM(status = 'scraped') / COUNT(*), 1) AS completion_pct
  FROM scraping_progress GROUP BY season;
CREATE VIEW player_career_totals AS
  SELECT player_name, COUNT(*) AS games_played, SUM(minutes_decimal) AS total_minutes, SUM(points) AS total_points,
    SUM(total_rebounds) AS total_rebounds, SUM(assists) AS total_assists, SUM(steals) AS total_steals,
    SUM(blocks) AS total_blocks, ROUND(AVG(points), 1) AS ppg, ROUND(AVG(total_rebounds), 1) AS rpg,
    ROUND(AVG(assists), 1) AS apg
  FROM player_box_scores WHERE minutes_decimal > 0 GROUP BY player_name;"""

_INDEXES = """
CREATE INDEX games_date ON games(game_date);
CREATE INDEX games_season ON games(season);
CREATE INDEX games_home ON games(home_team);
CREATE INDEX games_away ON games(away_team);
CREATE INDEX games_type ON games(game_type);
CREATE INDEX team_game ON team_box_scores(game_id);
CREATE INDEX team_team ON team_box_scores(team);
CREATE INDEX player_game ON player_box_scores(game_id);
CREATE INDEX player_player ON player_box_scores(player_name);
CREATE INDEX player_team ON player_box_scores(team);
CREATE INDEX player_points ON player_box_scores(points DESC);
CREATE INDEX event_game ON game_play_by_play(game_id);
CREATE INDEX event_type ON game_play_by_play(event_type);
CREATE INDEX event_player ON game_play_by_play(primary_player);"""

TABLES = "\n".join((_GAMES, _TEAM_BOX, _PLAYER_BOX, _EVENTS, _PROGRESS)).strip()


def create(connection: sqlite3.Connection) -> None:
    """Tables and views of an empty database."""
    connection.executescript(TABLES + _VIEWS)


def create_indexes(connection: sqlite3.Connection) -> None:
    """Indexes; after the rows, which is quicker."""
    connection.executescript(_INDEXES)


def ddl() -> str:
    """The tables as a prompt shows them."""
    return TABLES


def table_columns() -> dict[str, list[str]]:
    """Column names by table, as SQLite reads them from the DDL."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")]
    found = {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}
    connection.close()
    return found
