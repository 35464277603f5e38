package database

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Migrations are one component's steps from an empty schema to the newest, as
// goose SQL files in the root of an fs.FS.
type Migrations struct {
	Table    string // where the steps taken are recorded, one table a component
	Postgres fs.FS
	SQLite   fs.FS // the same as Postgres where one text does for both
}

// MigrationsIn returns the migrations in the folder dir of files, whose text
// does for both databases. It panics if dir is not a valid path of an [fs.FS].
func MigrationsIn(files fs.FS, dir, table string) Migrations {
	sub, err := fs.Sub(files, dir)
	if err != nil {
		panic(fmt.Sprintf("database: migrations in %q: %v", dir, err))
	}
	return Migrations{Table: table, Postgres: sub, SQLite: sub}
}

// migrate takes the steps that are missing. Several processes may do so at
// once: on PostgreSQL they queue for an advisory lock, on SQLite the one that
// lost the race looks again.
func (db *DB) migrate(ctx context.Context) error {
	for _, m := range db.migrations {
		var err error
		for range 3 {
			if err = db.apply(ctx, m); err == nil || db.dialect == Postgres {
				break
			}
		}
		if failed, ok := errors.AsType[*goose.PartialError](err); ok {
			err = fmt.Errorf("migration %s fails: %w", path.Base(failed.Failed.Source.Path), failed.Err)
		}
		if err != nil {
			err = fmt.Errorf("database: migrate %s (%s): %w", db.name, m.Table, err)
			if ctx.Err() == nil && !Away(err) {
				return migrationError{err}
			}
			return err
		}
	}
	return nil
}

// migrationError says that the database is there and a step cannot be taken.
type migrationError struct{ error }

func (e migrationError) Unwrap() error { return e.error }

// Notice has people told.
func (migrationError) Notice() string { return "MigrationFailed" }

func (db *DB) apply(ctx context.Context, m Migrations) error {
	fsys, dialect := m.SQLite, goose.DialectSQLite3
	options := []goose.ProviderOption{goose.WithTableName(m.Table), goose.WithDisableGlobalRegistry(true)}
	if db.dialect == Postgres {
		fsys, dialect = m.Postgres, goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120)) // asks every second, for two minutes
		if err != nil {
			return err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	provider, err := goose.NewProvider(dialect, db.write, fsys, options...)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}
