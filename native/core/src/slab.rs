//! Slots with stable numbers. A freed slot is reused only after `reclaim`, so that an event of this turn that names a
//! closed connection can never reach its successor; for events of later turns there is a stamp, another one each time.
pub struct Slab<T> {
    slots: Vec<Option<Box<T>>>,
    stamps: Vec<u32>,
    free: Vec<u32>,
    dead: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: vec![], stamps: vec![], free: vec![], dead: vec![] }
    }
}

impl<T> Slab<T> {
    /// Where the next `insert` goes.
    pub fn vacant(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots.len() as u32)
    }

    pub fn insert(&mut self, value: T) -> u32 {
        let value = Some(Box::new(value));
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = value;
                slot
            }
            None => {
                self.slots.push(value);
                self.stamps.push(0);
                self.slots.len() as u32 - 1
            }
        }
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Tells what is in a slot from what was there before.
    pub fn stamp(&self, slot: u32) -> u32 {
        self.stamps.get(slot as usize).copied().unwrap_or(0)
    }

    pub fn remove(&mut self, slot: u32) -> Option<Box<T>> {
        let value = self.slots.get_mut(slot as usize)?.take();
        if value.is_some() {
            self.stamps[slot as usize] = self.stamps[slot as usize].wrapping_add(1) & STAMP_MASK;
            self.dead.push(slot);
        }
        value
    }

    pub fn reclaim(&mut self) {
        self.free.append(&mut self.dead);
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, value)| Some((slot as u32, value.as_deref()?)))
    }

    pub fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len() + self.dead.len()
    }

    /// The numbers of those that match, for loops that change the slab.
    pub fn slots_of(&self, matches: impl Fn(&T) -> bool) -> Vec<u32> {
        self.iter().filter(|(_, value)| matches(value)).map(|(slot, _)| slot).collect()
    }
}

/// A stamp, its slot and three bits more fit into what an event carries.
pub const STAMP_MASK: u32 = (1 << 29) - 1;
