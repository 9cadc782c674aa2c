package main

import "context"

func (b *bench) substituted(ctx context.Context) error { return nil }
