package middleware

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	limit "golang.org/x/time/rate"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// clientBits is how many bits of an IPv6 address tell clients apart: whoever has one address has
// all that begin so.
const clientBits = 64

// clientOf tells which client a request comes from: the address of the peer, unless that is a
// trusted proxy. Then it is the last address in X-Forwarded-For that is not a trusted proxy itself:
// the client could have written those before it. X-Real-Ip counts where a proxy writes no
// X-Forwarded-For.
func clientOf(request *http.Request, trusted []netip.Prefix) string {
	peer, err := netip.ParseAddrPort(request.RemoteAddr)
	if err != nil {
		return request.RemoteAddr
	}
	client := peer.Addr().Unmap()
	said := strings.Split(strings.Join(request.Header.Values("X-Forwarded-For"), ","), ",")
	if len(said) == 1 && said[0] == "" {
		said[0] = request.Header.Get("X-Real-Ip")
	}
	for i := len(said) - 1; i >= 0 && isIn(client, trusted); i-- {
		before, ok := parseAddress(strings.TrimSpace(said[i]))
		if !ok {
			break
		}
		client = before
	}
	if client.Is4() {
		return client.String()
	}
	network, err := client.WithZone("").Prefix(clientBits)
	if err != nil {
		return client.String()
	}
	return network.String()
}

// parseAddress reads an address with or without a port, as proxies write both.
func parseAddress(text string) (netip.Addr, bool) {
	if address, err := netip.ParseAddr(text); err == nil {
		return address.Unmap(), true
	}
	address, err := netip.ParseAddrPort(text)
	return address.Addr().Unmap(), err == nil
}

func isIn(address netip.Addr, networks []netip.Prefix) bool {
	for _, network := range networks {
		if network.Contains(address.WithZone("")) {
			return true
		}
	}
	return false
}

// How many clients, and images that they asked for, are remembered. Each takes up to a few hundred
// bytes.
const (
	clientsKept = 10_000
	newKept     = 50_000
)

// newMemory is how long an image stays new to a client that has asked for it. Clients ask for the
// same one again and again while it is built.
const newMemory = 10 * time.Minute

// A rate bounds how many images that are not stored each client asks for: perHour in an hour, which
// may all come at once. It is safe for concurrent use.
type rate struct {
	perHour int

	mu    sync.Mutex
	left  *lru.Cache[string, *limit.Limiter] // by client
	asked *lru.Cache[string, time.Time]      // by client and image
}

func newRate(perHour int) (*rate, error) {
	left, err := lru.New[string, *limit.Limiter](clientsKept)
	if err != nil {
		return nil, err
	}
	asked, err := lru.New[string, time.Time](newKept)
	return &rate{perHour: perHour, left: left, asked: asked}, err
}

// ask counts an image that is not stored, once for each client that asks for it. The error is of
// kind Busy and says how long to wait.
func (r *rate) ask(client, image string, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client + " " + image
	if before, again := r.asked.Get(key); again && now.Sub(before) < newMemory {
		return nil
	}
	limiter, ok := r.left.Get(client)
	if !ok {
		limiter = limit.NewLimiter(limit.Limit(float64(r.perHour)/time.Hour.Seconds()), r.perHour)
		r.left.Add(client, limiter)
	}
	reserved := limiter.ReserveN(now, 1)
	if after := reserved.DelayFrom(now); after > 0 {
		reserved.CancelAt(now)
		return busyFor{after.Truncate(time.Second) + time.Second, status.Errorf(
			status.Busy,
			"you have asked for as many images that were not there yet as one client may in an hour, "+
				"%d (build.newperhour): try again later",
			r.perHour,
		)}
	}
	r.asked.Add(key, now)
	return nil
}

// busyFor is an error of kind Busy that is known to be over after a while.
type busyFor struct {
	after time.Duration
	error
}

func (b busyFor) Unwrap() error { return b.error }
