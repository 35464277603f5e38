package web

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// Page is what a collection takes from the caller: embed it in the operation's input. A limit that is not a number from 1
// to 200 is refused before the handler runs.
type Page struct {
	Limit  int    `query:"limit" default:"50" minimum:"1" maximum:"200" doc:"How many items to return"`
	Cursor string `query:"cursor" doc:"Where to go on, from the Link header of the page before" example:"IjAxOWFhZjNlLTdjMWItN2QyZS05YTQxLTVjMGQzZjZiOGUyMSI"`

	url url.URL
}

// Resolve remembers the request's address for the link to the next page, and refuses a cursor that no page has given,
// together with whatever else is wrong with the request. Huma calls it.
func (p *Page) Resolve(ctx huma.Context) []error {
	p.url = ctx.URL()
	if p.url.Query().Has("cursor") && p.position() == nil {
		return []error{&huma.ErrorDetail{Location: "query.cursor", Message: badCursor}}
	}
	return nil
}

const badCursor = "not one that the Link header gave"

// position is the JSON inside the cursor, or nil when there is none. No page ends at null.
func (p *Page) position() jsontext.Value {
	data, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if v := jsontext.Value(data); err == nil && v.IsValid() && v.Kind() != 'n' {
		return v
	}
	return nil
}

// After decodes the caller's cursor into position, a pointer to what was given to [NextPage]. It reports false on the
// first page, and fails with 422 when the cursor is not one of ours.
func (p Page) After(position any) (bool, error) {
	if p.Cursor == "" {
		return false, nil
	}
	v := p.position()
	if v == nil || json.Unmarshal(v, position, json.RejectUnknownMembers(true)) != nil {
		return false, Invalid(Field{Name: "cursor", Message: "cursor: " + badCursor})
	}
	return true, nil
}

// NextPage cuts items, of which the caller asked the store for p.Limit+1, to p.Limit. The link is the value of the Link
// header: it leads to what follows the last item, whose place in the order is what position returns; it is empty on the
// last page.
func NextPage[T any](p Page, items []T, position func(T) any) (page []T, link string, err error) {
	if p.Limit <= 0 || len(items) <= p.Limit {
		return items, "", nil
	}
	items = items[:p.Limit]
	data, err := json.Marshal(position(items[len(items)-1]))
	if err != nil {
		return nil, "", fmt.Errorf("web: encode a cursor: %w", err)
	}
	query := p.url.Query()
	query.Set("limit", strconv.Itoa(p.Limit))
	query.Set("cursor", base64.RawURLEncoding.EncodeToString(data))
	return items, "<" + p.url.EscapedPath() + "?" + query.Encode() + `>; rel="next"`, nil
}

// Listing is what an operation answers with one page of a collection: items as they are on the wire, and the link to the
// next page.
type Listing[T any] struct {
	Link string `header:"Link"`
	Body []T
}

// NewestFirst answers with a page of a collection whose items have UUIDs of version 7 for ids, which grow with time. Read
// returns at most limit items with ids below after, the highest id first; id and wire say what an item's id is, and what
// it is on the wire.
func NewestFirst[Item, Wire any](
	p Page, read func(after string, limit int) ([]Item, error), id func(Item) string, wire func(Item) Wire,
) (*Listing[Wire], error) {
	after := uuid.Max
	if _, err := p.After(&after); err != nil {
		return nil, err
	}
	items, err := read(after.String(), p.Limit+1)
	if err != nil {
		return nil, err
	}
	items, link, err := NextPage(p, items, func(i Item) any { return id(i) })
	if err != nil {
		return nil, err
	}
	out := &Listing[Wire]{Link: link, Body: make([]Wire, len(items))}
	for i, item := range items {
		out.Body[i] = wire(item)
	}
	return out, nil
}
