package web

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/turnstile-go/turnstile/framework/database"
)

//go:embed migrations
var migrations embed.FS

// Migrations returns the table of [Create] and [Once], idempotency_keys. It lives in the service's own database: pass it to
// database.New.
func Migrations() database.Migrations {
	return database.MigrationsIn(migrations, "migrations", "web_schema")
}

// Create runs do in a transaction, as [database.DB.InTx] does, and returns what it returned. It is for operations that
// create: a POST that answers 201 takes the header Idempotency-Key, and a request that repeats an earlier one with the same
// key gets that one's answer, without do being called. The answer, all of Out with its headers, is stored in the same
// transaction as the effect, encrypted, for 24 hours; failures are not stored. Repeated while the first is under way, a
// request is refused with 409; the same key with another body is 422.
//
// Out must be the same after it was written as JSON and read again.
func Create[Out any](ctx context.Context, db *database.DB, do func(tx *database.Tx) (*Out, error)) (*Out, error) {
	return Once(ctx, db, func(keep func(context.Context, *database.Tx, *Out) error) (*Out, error) {
		var out *Out
		err := db.InTx(ctx, func(tx *database.Tx) (err error) {
			if out, err = do(tx); err != nil {
				return err
			}
			return keep(ctx, tx, out)
		})
		if err != nil {
			return nil, err
		}
		return out, nil
	})
}

// Once is [Create] for work that is not one transaction. Do calls keep with the answer, in the transaction that makes the
// effect final, and then returns it. If keep fails the transaction must, too: somebody else has taken the work over, which
// happens when a request takes much longer than it may.
//
// If do fails the key is free again. When the process ends in the middle, the same request can be made anew after
// HTTP_REQUEST_TIMEOUT; what do had done until then it can find again if it notes [IdempotencyID] with it.
func Once[Out any](
	ctx context.Context, db *database.DB,
	do func(keep func(ctx context.Context, tx *database.Tx, out *Out) error) (*Out, error),
) (*Out, error) {
	a := attemptFrom(ctx)
	kept := false
	work := func(claim string) (*Out, error) {
		out, err := do(func(ctx context.Context, tx *database.Tx, out *Out) error {
			kept = true
			if a == nil {
				return nil
			}
			return a.keep(ctx, tx, claim, out, new(Out))
		})
		if err == nil && !kept {
			panic("web: Once: the work ended well and its answer was not kept")
		}
		return out, err
	}
	if a == nil {
		return work("")
	}
	claim, answer, err := a.claim(ctx, db)
	if err != nil {
		return nil, err
	}
	if answer != nil {
		out := new(Out)
		if err := json.Unmarshal(answer, out); err != nil {
			return nil, fmt.Errorf("web: read the answer to %s: %w", a.id, err)
		}
		a.header.Set(idempotencyReplayed, "true")
		return out, nil
	}
	done := false
	defer func() {
		if !done {
			a.release(ctx, db, claim)
		}
	}()
	out, err := work(claim)
	done = err == nil
	return out, err
}

const (
	keepAnswers  = 24 * time.Hour
	pruneAnswers = time.Minute     // how often, at most
	claimMargin  = 5 * time.Second // for clocks that differ, and for a request that is slow to end
)

// claim makes this request the one that works on what the attempt is about, under the name that is returned, or returns the
// answer if there is one.
func (a *attempt) claim(ctx context.Context, db *database.DB) (claim string, answer []byte, err error) {
	if a.used {
		panic("web: Create or Once is called twice for one request")
	}
	a.used = true
	a.server.pruneKeys(ctx, db)
	now := time.Now()
	claim = rand.Text()
	var claimed int64
	var fingerprint, sealed string
	err = db.InTx(ctx, func(tx *database.Tx) error {
		result, err := tx.ExecContext(ctx, `
			INSERT INTO idempotency_keys (id, fingerprint, claim, claimed_until, answer, expires_at)
			VALUES ($1, $2, $3, $4, '', $5)
			ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, claim = excluded.claim,
				claimed_until = excluded.claimed_until, answer = '', expires_at = excluded.expires_at
			WHERE idempotency_keys.expires_at <= $6 OR (idempotency_keys.answer = ''
				AND idempotency_keys.claimed_until <= $6 AND idempotency_keys.fingerprint = excluded.fingerprint)`,
			a.id, a.fingerprint, claim, now.Add(a.server.cfg.RequestTimeout+claimMargin).UnixMicro(),
			now.Add(keepAnswers).UnixMicro(), now.UnixMicro())
		if err != nil {
			return err
		}
		if claimed, err = result.RowsAffected(); err != nil || claimed == 1 {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT fingerprint, answer FROM idempotency_keys WHERE id = $1`, a.id).
			Scan(&fingerprint, &sealed)
	})
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("web: claim %s: %w", a.id, err)
	case claimed == 1:
		return claim, nil, nil
	case fingerprint != a.fingerprint:
		return "", nil, otherRequest()
	case sealed == "":
		return "", nil, underWay()
	}
	answer, err = a.open(sealed)
	return "", answer, err
}

// otherRequest is 422: the key is taken.
func otherRequest() *Problem {
	return Invalid(Field{Name: idempotencyKey, Message: "This Idempotency-Key was used for another request"})
}

// underWay is 409: somebody else works on it.
func underWay() *Problem {
	msg := "A request with this Idempotency-Key is still being worked on, please ask again"
	return newProblem(http.StatusConflict, msg, Field{Name: idempotencyKey, Message: msg}).retryAfter(time.Second)
}

// keep stores the answer in the transaction of what it tells of. The answer is read again into copied: one that does not
// come back as it was would be wrong only when a client repeats its request, and nobody tries that.
func (a *attempt) keep(ctx context.Context, tx *database.Tx, claim string, out, copied any) error {
	answer, err := encode(out)
	if err != nil {
		return fmt.Errorf("web: the answer %T cannot be kept: %w", out, err)
	}
	if err := json.Unmarshal(answer, copied); err != nil {
		return fmt.Errorf("web: the answer %T cannot be read again: %w", out, err)
	}
	if again, err := encode(copied); err != nil || string(again) != string(answer) {
		return fmt.Errorf("web: the answer %T is another one after it was kept: have its types read the JSON that they write", out)
	}
	sealed, err := a.seal(answer)
	if err != nil {
		return err
	}
	result, err := tx.ExecContext(ctx, `UPDATE idempotency_keys SET answer = $1 WHERE id = $2 AND claim = $3 AND answer = ''`,
		sealed, a.id, claim)
	if err != nil {
		return fmt.Errorf("web: keep the answer to %s: %w", a.id, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return underWay()
}

// release forgets a claim whose work failed, so that the request can be repeated at once. If it cannot, the claim lapses.
func (a *attempt) release(ctx context.Context, db *database.DB, claim string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimMargin)
	defer cancel()
	err := db.InTx(ctx, func(tx *database.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE id = $1 AND claim = $2 AND answer = ''`, a.id, claim)
		return err
	})
	if err != nil {
		a.server.log.LogAttrs(ctx, slog.LevelWarn, "an Idempotency-Key stays claimed for a while", slog.Any("error", err))
	}
}

// pruneKeys forgets what is older than a day, now and then.
func (s *Server) pruneKeys(ctx context.Context, db *database.DB) {
	now := time.Now()
	last := s.pruned.Load()
	if now.UnixMicro()-last < pruneAnswers.Microseconds() || !s.pruned.CompareAndSwap(last, now.UnixMicro()) {
		return
	}
	err := db.InTx(ctx, func(tx *database.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE expires_at <= $1`, now.UnixMicro())
		return err
	})
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "old Idempotency-Keys are not forgotten", slog.Any("error", err))
	}
}

func (a *attempt) cipher() (cipher.AEAD, error) {
	block, err := aes.NewCipher(a.secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (a *attempt) seal(answer []byte) (string, error) {
	c, err := a.cipher()
	if err != nil {
		return "", fmt.Errorf("web: encrypt the answer to %s: %w", a.id, err)
	}
	return base64.StdEncoding.EncodeToString(c.Seal(nil, nil, answer, []byte(a.id))), nil
}

func (a *attempt) open(sealed string) ([]byte, error) {
	c, err := a.cipher()
	if err != nil {
		return nil, fmt.Errorf("web: decrypt the answer to %s: %w", a.id, err)
	}
	data, err := base64.StdEncoding.DecodeString(sealed)
	if err == nil {
		data, err = c.Open(nil, nil, data, []byte(a.id))
	}
	if err != nil {
		return nil, fmt.Errorf("web: decrypt the answer to %s: %w", a.id, errors.Join(errors.New("the row was tampered with"), err))
	}
	return data, nil
}
