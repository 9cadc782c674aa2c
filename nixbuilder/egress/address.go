package egress

import (
	"cmp"
	"net"
	"net/netip"
	"strings"
)

// newEndpoint makes an endpoint in one spelling. An empty port is the scheme's own.
func newEndpoint(scheme, host, port string) endpoint {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if address, err := netip.ParseAddr(host); err == nil {
		host = address.Unmap().String()
	}
	return endpoint{scheme, host, cmp.Or(port, ports[scheme])}
}

// address is the endpoint as it is dialled.
func (e endpoint) address() string { return net.JoinHostPort(e.host, e.port) }

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// isPublic tells whether an address is on the Internet, and not of this machine or of a network
// that it is in, in whatever form. The ranges are those of IANA's registries of special-purpose
// addresses, with multicast.
func isPublic(a netip.Addr) bool {
	if a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if a.Is4() {
		return !within(a, prefixes(
			"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
			"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
			"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
		))
	}
	bytes := a.As16()
	switch {
	case within(a, prefixes("64:ff9b::/96")): // NAT64
		return isPublic(netip.AddrFrom4([4]byte(bytes[12:])))
	case within(a, prefixes("2002::/16")): // 6to4
		return isPublic(netip.AddrFrom4([4]byte(bytes[2:])))
	default: // Teredo and others of 2001::/23 have further addresses in them
		return within(a, prefixes("2000::/3")) && !within(a, prefixes("2001::/23", "2001:db8::/32", "3fff::/20"))
	}
}

func within(a netip.Addr, ranges []netip.Prefix) bool {
	for _, one := range ranges {
		if one.Contains(a) {
			return true
		}
	}
	return false
}

// ownAddresses are those of this machine.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, one := range all {
		if prefix, err := netip.ParsePrefix(one.String()); err == nil {
			own = append(own, prefix.Addr().Unmap())
		}
	}
	return own, nil
}
