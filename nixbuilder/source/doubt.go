package source

// Doubt implements Source. Every Pin looks at the files.
func (*Path) Doubt() {}

// Doubt implements Source.
func (c *Channel) Doubt() { c.lookups.doubt() }

// Doubt implements Source. What may be chosen by its commit is known for good once it is.
func (g *Git) Doubt() {
	g.lookups.doubt()
	g.advertised.doubt()
}

// Doubt implements Source, for all sets.
func (v *Variants) Doubt() {
	v.set.Doubt()
	for _, other := range v.nixPath {
		other.Doubt()
	}
}
